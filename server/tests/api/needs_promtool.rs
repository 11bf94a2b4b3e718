//! The alerts of the documentation and the metrics, checked by Prometheus' own program.
//! `scripts/test` selects the tests by this module's name.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::observing::{metrics, with_metrics};
use crate::support::Server;

#[test]
#[ignore = "needs promtool: make test"]
fn alert_rules_are_valid() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/prometheus/alerts.yml");
    let output = Command::new("promtool").args(["check", "rules", file]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("SUCCESS"), "{said}");
}

#[actix_rt::test]
#[ignore = "needs promtool: make test"]
async fn metrics_can_be_parsed() {
    let server = Server::with(with_metrics);
    // promtool reads the format before OpenMetrics, which has no end marker and no type `info`.
    let text = metrics(&server).await.replace("# EOF\n", "").replace(" info\n", " gauge\n");
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.stdout(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = String::from_utf8(check.wait_with_output().unwrap().stderr).unwrap();
    assert!(!said.contains("error while linting") && !said.contains("parsing error"), "{said}");
}
