//! `gatepass-demo`, the inside of `ops/demo`: a first login, told aloud. With `--auto` it plays the technician too, and its exit
//! code is 0 only if everything it tells has really happened.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::Instant;

use gatepass_e2e::{Plan, Terminal, World, program, run, until};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("something is wrong");
        show(&format!("\nThe demo FAILED: {message}\n"));
    }));
    let folder =
        std::env::var_os("GATEPASS_DEMO").map(PathBuf::from).filter(|_| std::env::var_os("GATEPASS_JAIL").is_some());
    let Some(folder) = folder else {
        show("gatepass-demo: run ops/demo, which makes the jail that this runs in\n");
        return ExitCode::from(2);
    };
    let told = std::panic::catch_unwind(|| {
        seconds();
        title("A machine, its agent, a server and a phone, all new");
        let world = World::new(Plan { confirm_code: true, folder: Some(folder), tell: step, ..Plan::default() });
        if std::env::args().nth(1).as_deref() == Some("--auto") { both_parts(&world) } else { one_part(&world) }
    });
    if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The reader is the technician: this terminal is the computer's, another one is the phone.
fn one_part(world: &World) {
    let terminal = world.computer.ssh("gp-alex");
    terminal.read_qr();
    let phone = write_phone(world, &terminal);
    let admin = write_admin(world);
    title("Your turn");
    show(&format!(
        "This terminal becomes `ssh gp-alex@localhost`, at a logon screen with its QR.\n\
         In ANOTHER terminal you are the technician with the phone:\n\n\
         \x20   {phone}\n\
         \x20       scans this screen, shows who asks for what, and approves\n\
         \x20   {phone} grants | end GRANT | receipts\n\
         \x20       what you have granted; ends it now; the proof that it is over\n\n\
         and here you are the administrator:\n\n\
         \x20   {admin} audit\n\n\
         When you are in, try `id` and `sudo id`. `exit` ends the login, and the demo.\n\n\
         Press Enter to begin. ",
        phone = phone.display(),
        admin = admin.display(),
    ));
    let _ = std::io::stdin().read_line(&mut String::new());
    terminal.attach();
    title("What is left of it");
    gone(world, "gp-alex");
    quote(&world.phone.does(&["receipts"]));
    quote(&world.admin.does(&["audit"]));
}

/// Both parts are played, and everything is looked at.
fn both_parts(world: &World) {
    let terminal = logs_in(world);
    becomes_root(world, &terminal);
    ends(world, &terminal);
    show("\nAll of it has really happened.\n");
}

fn logs_in(world: &World) -> Terminal {
    title("A technician logs in");
    assert!(!world.computer.has_open_account("gp-alex"), "gp-alex must not be open before anybody approved");
    step("there is no account gp-alex that anybody could use");
    let terminal = world.computer.ssh("gp-alex");
    let code = terminal.read_qr();
    step("a stock `ssh gp-alex@localhost`, in a terminal of 80x24, shows:");
    quote(&terminal.screen());
    step("zbarimg reads in a picture of that terminal:");
    quote(&code);
    let picture = terminal.photograph();
    let mut scan = world.phone.scan_picture(&picture, &["--approve", "--yes", "--group", "adm", "--minutes", "10"]);
    let digits = scan.confirm_code();
    terminal.enter();
    terminal.wait_for("Type the 3 digits");
    terminal.type_line(&digits);
    step("the phone reads the same picture, and alex approves what it shows:");
    quote(&scan.finish().ok());
    terminal.wait_for("gp-alex@");
    step("the digits are typed at the computer, and ssh is in:");
    let id = tells(&terminal, "id");
    assert!(id.contains("(gp-alex)") && id.contains("(adm)"), "id says {id}");
    terminal
}

fn becomes_root(world: &World, terminal: &Terminal) {
    title("A command as root");
    let refused = tells(terminal, "head -c 5 /etc/shadow");
    assert!(refused.contains("Permission denied"), "{refused}");
    terminal.type_line("clear; sudo head -c 5 /etc/shadow");
    let mut scan = world.phone.approve(&terminal.read_qr());
    let digits = scan.confirm_code();
    terminal.wait_for("Type the 3 digits");
    terminal.type_line(&digits);
    let said = scan.finish().ok();
    step("sudo shows a code of its own, and the phone exactly what will run:");
    quote(&said);
    assert!(said.contains("Command     sudo head -c 5 /etc/shadow"), "the phone did not show the command:\n{said}");
    terminal.wait_for("root:");
    terminal.enter();
    // sudo leaves first, then the computer closes its grant: until then the phone still lists it.
    until("the right to that command to be over", || {
        (!world.phone.does(&["grants"]).contains("(elevation)")).then_some(())
    });
    step("it has run as root, and that right is over already");
}

fn ends(world: &World, terminal: &Terminal) {
    title("The end");
    let grants = world.phone.does(&["grants"]);
    quote(&grants);
    let grant = grants.lines().find(|line| line.contains("gp-alex")).and_then(|line| line.split_whitespace().next());
    let grant = grant.unwrap_or_else(|| panic!("the phone knows no grant of gp-alex:\n{grants}"));
    let ended = world.phone.does(&["end", grant]);
    let last = terminal.wait_for_end();
    step("ended from the phone; the terminal's last words:");
    let last: Vec<&str> = last.trim_end().lines().collect();
    quote(&last[last.len().saturating_sub(3)..].join("\n"));
    gone(world, "gp-alex");
    step("the computer's signed receipt, checked by the phone:");
    quote(&ended);
    assert!(ended.contains("signature  holds") && !ended.contains("NO"), "the receipt does not hold:\n{ended}");

    step("the audit trail, signed by the computer, as the administrator sees it:");
    let trail = until("the whole story in the audit trail", || {
        let trail = world.admin.does(&["audit"]);
        let happened = |what: &str| trail.lines().any(|line| line.contains(what) && line.contains(grant));
        (happened("granted") && happened("ended")).then_some(trail)
    });
    quote(&trail);
}

/// Runs a command in the terminal's shell and tells what it printed.
fn tells(terminal: &Terminal, line: &str) -> String {
    let printed = terminal.command(line);
    quote(&format!("$ {line}\n{}", printed.trim_end()));
    printed
}

/// Shows that nothing can log in as this account any more.
fn gone(world: &World, account: &str) {
    until("the account to be gone", || (!world.computer.has_open_account(account)).then_some(()));
    let ask = |command: &str| {
        run(Command::new("setpriv").args(["--reuid=nobody", "--clear-groups", "sh", "-c", command])).said()
    };
    step("the account is gone:");
    quote(&format!(
        "$ getent passwd {account}\n{}$ id {account}\n{}",
        ask(&format!("getent passwd {account}")),
        ask(&format!("id {account}"))
    ));
}

/// The phone as one command: without arguments it scans what the terminal shows.
fn write_phone(world: &World, terminal: &Terminal) -> PathBuf {
    let text = format!(
        "#!/bin/sh\n\
         # Alex's phone. Without arguments: scan what the demo's terminal shows.\n\
         [ \"$(id -u)\" = 0 ] || exec sudo \"$0\" \"$@\"\n\
         if [ $# -gt 0 ]; then exec {phone} --home {home} \"$@\"; fi\n\
         {capture} >{folder}/screen || exit 1\n\
         exec {phone} --home {home} scan --terminal {folder}/screen --pin-file {pin}\n",
        phone = program("gatepass-phone").display(),
        home = world.phone.home().display(),
        pin = world.phone.pin_file().display(),
        capture = terminal.capture_command(),
        folder = world.folder().display(),
    );
    write_program(&world.folder().join("alex"), &text)
}

/// The administrator as one command.
fn write_admin(world: &World) -> PathBuf {
    let text = format!(
        "#!/bin/sh\n[ \"$(id -u)\" = 0 ] || exec sudo \"$0\" \"$@\"\nexec {} --profile {}/profile.toml \"$@\"\n",
        program("gatepass").display(),
        world.admin.folder().display()
    );
    write_program(&world.folder().join("administrator"), &text)
}

fn write_program(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).expect("the demo's folder can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the demo's folder can be written");
    path.to_owned()
}

fn title(text: &str) {
    show(&format!("\n{text}\n"));
}

/// One step, with the time since the beginning.
fn step(text: &str) {
    show(&format!("{:6.2} s  {text}\n", seconds()));
}

/// Seconds since this was first asked.
fn seconds() -> f32 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    BEGIN.get_or_init(Instant::now).elapsed().as_secs_f32()
}

/// What a program or a terminal has said.
fn quote(text: &str) {
    for line in text.trim_end().lines() {
        show(&format!("          | {}\n", line.trim_end()));
    }
}

fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away stops nothing.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
