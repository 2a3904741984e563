//! The edge where the machine's clocks are read.

use std::fs;

use gatepass_agent_core::clock::{BootId, Now};
use rustix::time::{ClockId, clock_gettime};

/// What the clocks say now.
pub(crate) fn now() -> Now {
    let uptime = clock_gettime(ClockId::Boottime).tv_sec;
    Now { wall: gatepass_client::edge::now(), uptime: u64::try_from(uptime).unwrap_or_default(), boot: boot() }
}

/// This boot of the machine. Where the kernel does not say, every start of the agent counts as a boot: grants end then.
fn boot() -> BootId {
    static BOOT: std::sync::OnceLock<BootId> = std::sync::OnceLock::new();
    *BOOT.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let id = u128::from_str_radix(&digits, 16).map(u128::to_be_bytes);
        BootId(id.unwrap_or_else(|_| gatepass_client::edge::random()))
    })
}

/// A time of day and how far away it is: "14:30 UTC (in 30 minutes)". Whoever reads it may be in another zone than the
/// computer, and the computer's zone is often wrong.
pub(crate) fn time_of_day(at: u64) -> String {
    time_of_day_from(at, now().wall)
}

fn time_of_day_from(at: u64, now: u64) -> String {
    let (hours, minutes) = (at / 3600 % 24, at / 60 % 60);
    let distance = match at.abs_diff(now).div_ceil(60) {
        1 => "1 minute".to_owned(),
        near @ ..=120 => format!("{near} minutes"),
        far @ ..=2880 => format!("{} hours", far / 60),
        days => format!("{} days", days / 1440),
    };
    let distance = if at >= now { format!("in {distance}") } else { format!("{distance} ago") };
    format!("{hours:02}:{minutes:02} UTC ({distance})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_says_how_far_away_it_is() {
        let noon = 1_800_000_000 - 1_800_000_000 % 86_400 + 12 * 3600;
        assert_eq!(time_of_day_from(noon + 1800, noon), "12:30 UTC (in 30 minutes)");
        assert_eq!(time_of_day_from(noon + 59, noon), "12:00 UTC (in 1 minute)");
        assert_eq!(time_of_day_from(noon - 3 * 3600, noon), "09:00 UTC (3 hours ago)");
        assert_eq!(time_of_day_from(noon + 3 * 86_400, noon), "12:00 UTC (in 3 days)");
    }
}
