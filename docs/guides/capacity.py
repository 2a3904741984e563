#!/usr/bin/python3
"""How many relays, how much memory, CPU, Redis and network for how many computers: the tables of capacity.md.

    docs/guides/capacity.py [--set NAME=VALUE]...

Each figure below says where it comes from: a command of this repository that measures it, or that it is assumed. Measure on your own
machines, put the new figures in with --set or here, and put what this prints into capacity.md in place of the old tables.
"""

import math
import sys

# name: (value, unit, what, where it comes from)
FIGURES = {
    # Measured: 2 cores, load on the same machine, loopback, no TLS.
    "rss": (2.9, "KiB", "memory of the relay for an idle authenticated connection, plain", "`ops/bench --only idle-15000`"),
    "kernel": (4.6, "kB", "memory of the kernel for its socket", "the same run, from /proc/meminfo"),
    "deliver_few": (6.5, "us", "CPU of one delivery, 20 messages a second to 1,000", "`ops/bench --only fanout-20`"),
    "deliver_many": (3.3, "us", "CPU of one delivery, 300 messages a second to 1,000", "`ops/bench --only fanout-300`"),
    "round_trip": (15.4, "us", "CPU of a pair's round trip: two frames in, two out", "`ops/bench --only pair-100`"),
    "connect": (91, "us", "CPU of a connection that authenticates by signatures, plain", "`ops/bench --only connect`"),
    # Not measured yet: what is to be reached, or a careful guess.
    "connect_ticket": (28, "us", "CPU of a connection that comes back by a ticket, plain", "`ops/bench --only connect-ticket`"),
    "rss_tls": (16, "KiB", "memory of the relay for an idle connection with TLS", "assumed: what is to be reached, at most"),
    "tls_handshake": (300, "us", "CPU of a TLS handshake (P-256, TLS 1.3), more than plain", "assumed"),
    "redis_commands": (80_000, "/s", "commands that one Redis process answers, pipelined, scripts among them", "assumed"),
    "sqlite_writes": (500, "/s", "events that the control plane's SQLite takes in for good", "assumed"),
    # From the configuration and the protocol.
    "ping_seconds": (25, "s", "`limits.ping_seconds`", "relay.example.toml"),
    "wire_ping": (250, "B", "a ping and its pong on the wire: 8 B of frames, TLS, TCP/IP, Ethernet, an acknowledgement", "arithmetic"),
    "limit": (100_000, "", "`limits.connections`", "relay.example.toml"),
    "accepts": (5_000, "/s", "`limits.accepts_per_second`", "relay.example.toml"),
    "accept_burst": (20_000, "", "`limits.accept_burst`", "relay.example.toml"),
    "tenant_limit": (50_000, "", "`limits.tenant_connections`", "relay.example.toml"),
    "ports": (28_232, "", "source ports of one address towards one relay, as Linux comes", "net.ipv4.ip_local_port_range"),
    "frames": (14, "", "frames of a pairing through the relay, acknowledgements among them", "PROTOCOL.md"),
    "commands": (4, "", "Redis commands for one of them, at most", "the backplane's bound"),
    "qr_seconds": (45, "s", "a code's time on a screen", "PROTOCOL.md"),
    # How it is used: yours will differ, so set these first.
    "target": (50_000, "", "connections planned for one relay", "half of `limits.connections`"),
    "logins": (0.2, "", "logins by phone, for each computer and day", "assumed"),
    "peak": (0.15, "", "of a day's logins in its busiest hour", "assumed"),
    "screens": (0.002, "", "computers that show a code at any moment", "assumed"),
    "tenant": (20_000, "", "computers of the largest tenant", "assumed"),
    "tenants": (2_000, "", "computers of a tenant, on average", "assumed"),
    "lists": (10, "", "policies, revocations and relay lists of a tenant in a day", "assumed"),
    "events": (4, "", "events of a login for the audit trail", "assumed"),
}
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


def plan(f, agents):
    """What so many computers take, at the busiest hour of the day."""
    relays = max(1, math.ceil(agents / f["target"]))
    relays += 1 if relays < 10 else math.ceil(relays / 10)  # one more, or a tenth, may be away
    if agents <= 10_000:
        relays = 1  # --role all: a computer waits a restart out
    logins = agents * f["logins"] * f["peak"] / 3600
    opens = agents * f["screens"] / f["qr_seconds"]
    pings = agents / f["ping_seconds"]
    messages = logins * f["frames"] + opens
    cpu = {
        "pings": pings * f["round_trip"] / 2,
        "pairings": messages * f["round_trip"] / 2,
        "tickets": agents / 3600 * f["deliver_few"],
        "lists": agents * f["lists"] / 86_400 * f["deliver_many"],
    }
    return {
        "relays": relays,
        "memory": agents * (f["rss_tls"] * 1024 + f["kernel"] * 1000) / 1e9,
        "memory_plain": agents * (f["rss"] * 1024 + f["kernel"] * 1000) / 1e9,
        "pings": pings,
        "cores": sum(cpu.values()) / 1e6,
        "most": max(cpu, key=cpu.get),
        "logins": logins,
        "redis": messages * f["commands"] if relays > 1 else 0,
        "network": pings * f["wire_ping"] * 8 / 1e6,
        "writes": logins * f["events"],
        # Every relay is told of every change of every tenant.
        "feed": agents / f["tenants"] * f["lists"] / 86_400 * relays if relays > 1 else 0,
        "region": agents * (f["connect_ticket"] + f["tls_handshake"]) / 1e6,
    }


def number(value):
    if value == 0:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def rounded(value):
    """Nobody knows a forecast to the last computer; what the configuration says, one does."""
    return value if value == int(value) else round(value, 1 - int(math.log10(value)))


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figures(f):
    for name, (_, unit, what, source) in FIGURES.items():
        yield [f"`{name}`", f"{f[name]:,} {unit}".strip(), what, source]


def sizes(f):
    rows = (
        ("relays, spares among them", "relays", ""),
        ("memory of all, with TLS", "memory", " GB"),
        ("memory of all, plain behind a balancer that ends TLS", "memory_plain", " GB"),
        ("pings a second", "pings", ""),
        ("CPU of all at the busiest hour, in cores", "cores", ""),
        ("most of it for", "most", ""),
        ("logins a second at the busiest hour", "logins", ""),
        ("commands a second to Redis, all regions", "redis", ""),
        ("network of pings, Mbit/s each way together", "network", ""),
        ("events a second to the control plane", "writes", ""),
        ("changes a second from the control plane to relays", "feed", ""),
        ("CPU seconds for all to come back by ticket, with TLS", "region", ""),
    )
    plans = [plan(f, agents) for agents in SIZES]
    for what, key, unit in rows:
        yield [what, *(one[key] if isinstance(one[key], str) else number(one[key]) + unit for one in plans)]


def breaks(f):
    """What gives way, and at how many computers: smallest first."""
    per_login = f["logins"] * f["peak"] / 3600
    messages = per_login * f["frames"] + f["screens"] / f["qr_seconds"]
    one_back = f["connect_ticket"] + f["tls_handshake"]
    found = [
        (1_048_576, "open files of one process (`fs.nr_open`), more than which `LimitNOFILE` can't give", "another relay, long before"),
        (f["ports"], "source ports of a balancer with one address, for each relay behind it",
         "`net.ipv4.ip_local_port_range`; more addresses; a balancer that does not end TCP"),
        (f["tenant_limit"], "`limits.tenant_connections`, for one tenant", "raise it for who is that large, or spread the tenant"),
        (f["limit"] / 2, "what one relay is planned for: the loss of another fills it", "another relay"),
        (f["limit"], "`limits.connections` of one relay", "another relay; or raise it with `LimitNOFILE`, memory and the next line in mind"),
        (60e6 / one_back, "one core that takes everybody back within a minute, by ticket and with TLS", "cores; `drain.spread_seconds`; TLS at the balancer"),
        (f["redis_commands"] * 0.5 / (messages * f["commands"]), "one Redis process at half its rate, at the busiest hour", "`redis-cluster`, or another region"),
        (f["sqlite_writes"] * 0.5 / (per_login * f["events"]), "the control plane's SQLite at half its rate, at the busiest hour",
         "tenants spread over several control planes"),
    ]
    for agents, what, then in sorted(found):
        yield [f"{rounded(agents):,.0f}", what, then]


def notes(f):
    few, many = f["tenant"] * f["deliver_few"] / 1e6, f["tenant"] * f["deliver_many"] / 1e6
    lost = f["target"] * (f["connect_ticket"] + f["tls_handshake"]) / 1e6
    first = f["target"] * (f["connect"] + f["tls_handshake"]) / 1e6
    accept = max(0, f["target"] - f["accept_burst"]) / f["accepts"]
    yield f"- A revocation list to all {f['tenant']:,} computers of a tenant: {many:.2f} to {few:.2f} s of one core, in all relays together."
    yield (f"- One relay of {f['target']:,} is lost: its clients cost the others {lost:.0f} CPU seconds by ticket, {first:.0f} by signatures."
           f" One relay alone lets them in within {accept:.0f} s, by `limits.accept_burst` and `limits.accepts_per_second`.")
    yield (f"- A relay with {f['target']:,} connections takes {plan(f, f['target'])['memory']:.1f} GB with TLS, {plan(f, f['target'])['memory_plain']:.1f} GB plain,"
           f" and {plan(f, f['target'])['cores'] * 100:.0f} % of a core while nothing happens but the day's work.")


def main(arguments):
    f = {name: value for name, (value, *_) in FIGURES.items()}
    while arguments:
        match arguments:
            case ["--set", setting, *arguments] if "=" in setting:
                name, value = setting.split("=", 1)
                if name not in f:
                    sys.exit(f"capacity: there is no figure {name}; there are {', '.join(f)}")
                f[name] = float(value)
            case _:
                sys.exit(__doc__.strip())
    print("### What breaks first\n")
    print(table(["computers", "what gives way", "what to do"], breaks(f)))
    print("\n### For how many computers\n")
    print(table(["at", *(f"{size:,}" for size in SIZES)], sizes(f)) + "\n")
    print("\n".join(notes(f)))
    print("\n### The figures\n")
    print(table(["figure", "value", "of what", "from"], figures(f)))


if __name__ == "__main__":
    main(sys.argv[1:])
