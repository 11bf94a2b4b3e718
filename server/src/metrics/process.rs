//! Metrics of the process, with the names that Prometheus clients use for them. They are read
//! from `/proc`, and are 0 on a system without it.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The fields of `/proc/self/stat` after the name of the program, counted from zero (`proc(5)`
/// counts from one, and the name is the second).
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
const START_TICKS: usize = 19;

/// The unit of times in `/proc` (`USER_HZ`): the same on x86, ARM and RISC-V.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Default)]
pub(super) struct ProcessMetrics {
    cpu: Counter<f64, AtomicU64>,
    resident_memory: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start_time: Gauge<f64, AtomicU64>,
}

/// A part of `/proc/self/stat`.
#[derive(Debug, Default, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    /// After the start of the machine.
    started_after_seconds: f64,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let process = registry.sub_registry_with_prefix("process");
        process.register_with_unit(
            "cpu",
            "CPU time of the process",
            Unit::Seconds,
            metrics.cpu.clone(),
        );
        process.register_with_unit(
            "resident_memory",
            "Memory of the process that is in RAM",
            Unit::Bytes,
            metrics.resident_memory.clone(),
        );
        process.register_with_unit(
            "virtual_memory",
            "Address space of the process",
            Unit::Bytes,
            metrics.virtual_memory.clone(),
        );
        process.register("open_fds", "Open files and connections", metrics.open_fds.clone());
        process.register("max_fds", "Maximum of process_open_fds", metrics.max_fds.clone());
        process.register("threads", "Threads of the process", metrics.threads.clone());
        process.register_with_unit(
            "start_time",
            "Start of the process, in Unix time",
            Unit::Seconds,
            metrics.start_time.clone(),
        );
        metrics
    }

    /// Reads the current values.
    pub(super) fn update(&self) {
        let stat = read("/proc/self/stat").and_then(|text| parse_stat(&text)).unwrap_or_default();
        self.cpu.inner().store(stat.cpu_seconds.to_bits(), Ordering::Relaxed);
        let machine_started = read("/proc/stat").and_then(|text| number(&text, "btime "));
        #[expect(clippy::cast_precision_loss, reason = "a time has less than 53 bits")]
        let machine_started = machine_started.unwrap_or_default() as f64;
        self.start_time.set(machine_started + stat.started_after_seconds);
        let status = read("/proc/self/status").unwrap_or_default();
        let bytes = |name| number(&status, name).unwrap_or_default().saturating_mul(1024);
        self.resident_memory.set(bytes("VmRSS:"));
        self.virtual_memory.set(bytes("VmSize:"));
        self.threads.set(number(&status, "Threads:").unwrap_or_default());
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.open_fds.set(i64::try_from(open).unwrap_or(i64::MAX));
        let max = rlimit::Resource::NOFILE.get_soft().unwrap_or_default();
        self.max_fds.set(i64::try_from(max).unwrap_or(i64::MAX));
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name is in parentheses, and may contain spaces and parentheses.
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let seconds = |field: usize| {
        let ticks = fields.get(field)?.parse::<f64>().ok()?;
        Some(ticks / TICKS_PER_SECOND)
    };
    Some(Stat {
        cpu_seconds: seconds(USER_TICKS)? + seconds(SYSTEM_TICKS)?,
        started_after_seconds: seconds(START_TICKS)?,
    })
}

/// Returns the number after `name` at the begin of a line.
fn number(text: &str, name: &str) -> Option<i64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_after_the_last_parenthesis() {
        let text = "4711 (a) (b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 1200 4096000 77 1 2 3";
        let expected = Stat { cpu_seconds: 2.0, started_after_seconds: 12.0 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("4711 (a) S 1 2"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn number_is_found_by_the_begin_of_its_line() {
        let text = "Name:\ta VmRSS: 1\nVmPeak:\t  9 kB\nVmRSS:\t    4096 kB\nbtime 1700000000\n";
        assert_eq!(number(text, "VmRSS:"), Some(4096));
        assert_eq!(number(text, "btime "), Some(1_700_000_000));
        assert_eq!(number(text, "Threads:"), None);
    }
}
