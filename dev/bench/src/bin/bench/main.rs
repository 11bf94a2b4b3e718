//! Measures a running Matchbook against its bare components, and checks its performance
//! targets.

mod arguments;
mod cases;
mod counters;
mod extra_measurements;
mod interrupt;
mod logins;
mod measure;
mod plots;
mod report;
mod seeding;
mod services;
mod statistics;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, LARGE, binary};
use crate::interrupt::{handle_signals, is_interrupted};
use crate::report::Report;
use crate::services::Services;

/// Directory for the results.
const RESULTS: &str = "target/bench";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    handle_signals();
    let report = measure(&arguments);
    println!("{report}");
    write(&report, Path::new(RESULTS));
    if report.partial {
        eprintln!("bench: stopped before the end: the results are partial");
    }
    let failed = report.partial || (arguments.strict && report.misses_target());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn measure(arguments: &Arguments) -> Report {
    let cases = cases::cases(arguments);
    let minutes = cases::duration(&cases, arguments).as_secs().div_ceil(60);
    eprintln!("bench: {} cases, about {minutes} minutes plus seeding", cases.len());
    if arguments.sessions().iter().any(|sessions| *sessions >= LARGE) {
        eprintln!("bench: seeding 10 million sessions takes some minutes and 8 GB of disk");
    }
    let load = binary(arguments.load.as_ref(), "load");
    let mut services = Services::new(arguments);
    let machine = services.machine();
    let mut report = Report { machine, ..Report::default() };
    // A failing case and an interruption unwind to here.
    let measured = catch_unwind(AssertUnwindSafe(|| {
        measure::all(arguments, &load, &mut services, &mut report.runs);
        let wants = |name| arguments.wants(name).then(|| eprintln!("bench: {name}"));
        if wants("statement").is_some() {
            extra_measurements::statements(arguments, &mut services, &mut report.statements);
        }
        if wants("startup").is_some() {
            extra_measurements::startups(arguments, &mut services, &mut report.startups);
        }
        if wants("logins").is_some() {
            logins::measure_all(arguments, &load, &mut services, &mut report.logins);
        }
        report.memory = wants("memory")
            .map(|()| extra_measurements::measure_memory(arguments, &load, &mut services));
        report.client_ratio =
            wants("client").and_then(|()| extra_measurements::client_ratio(arguments));
    }));
    report.partial = measured.is_err() || is_interrupted();
    report.rows = report::rows(&report.runs);
    report.evaluate();
    report
}

fn write(report: &Report, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let file = folder.join("results.json");
    fs::write(&file, serde_json::to_string_pretty(report).unwrap()).unwrap();
    plots::draw(report, folder).unwrap();
    eprintln!("bench: written to {}", folder.display());
}
