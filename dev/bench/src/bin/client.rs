//! What the refreshing client costs a request that needs no refresh: requests
//! by `matchbook_client::Client` and by plain awc, in turn, to one small server.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use clap::Parser;
use matchbook_client::{Client, Credentials, RootCerts, Server, TokenResponse};

/// Rounds of requests by the client and by plain awc, and how they compare.
#[derive(Parser)]
struct Arguments {
    /// How many rounds each of the two gets.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// How many requests a round has.
    #[arg(long, default_value_t = 2000)]
    requests: usize,
    /// Fails below this ratio.
    #[arg(long, default_value_t = 0.95)]
    least: f64,
}

#[actix_rt::main]
async fn main() -> ExitCode {
    let Arguments { rounds, requests, least } = Arguments::parse();
    let url = start_server();
    let server = Server::new(&url, &RootCerts::System, Duration::from_secs(10)).unwrap();
    let session = Client::new(&server, Credentials::default());
    let token = "t".repeat(700);
    let tokens =
        TokenResponse { token: token.clone(), refresh_token: "r".to_owned(), expires_in: 3600 };
    session.log_in_with(tokens).await.unwrap();
    // Both send the same bytes: the name that the session gives itself, too.
    let name = concat!("matchbook-client/", env!("CARGO_PKG_VERSION"));
    let plain = awc::Client::builder().disable_redirects();
    let plain = plain.add_default_header(("user-agent", name)).finish();
    let target = format!("{url}/user");

    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first round of each warms up and is not counted.
    for round in 0..=rounds {
        let began = Instant::now();
        for _ in 0..requests {
            let mut response = session.get("/user").send().await.unwrap();
            assert_eq!(response.body().await.unwrap(), "{}");
        }
        let by_session = rate(requests, began);
        let began = Instant::now();
        for _ in 0..requests {
            let request = plain.get(&target).bearer_auth(&token);
            let mut response = request.send().await.unwrap();
            assert_eq!(response.body().await.unwrap(), "{}");
        }
        let by_awc = rate(requests, began);
        if round > 0 {
            ours.push(by_session);
            theirs.push(by_awc);
            ratios.push(by_session / by_awc);
        }
    }
    println!("requests a second, median of {rounds} (lowest to highest):");
    println!("  session {}", spread(&mut ours, 0));
    println!("  awc     {}", spread(&mut theirs, 0));
    println!("ratio of neighbouring rounds, the same way (at least {least}):");
    println!("  {}", spread(&mut ratios, 3));
    if median(&ratios) >= least { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A server on a thread of its own that answers `{}` to whoever has a bearer.
fn start_server() -> String {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let server = HttpServer::new(|| App::new().route("/user", web::get().to(user)))
                .workers(1)
                .disable_signals()
                .bind("127.0.0.1:0")
                .unwrap();
            tell.send(format!("http://{}", server.addrs()[0])).unwrap();
            server.run().await
        })
    });
    told.recv().unwrap()
}

async fn user(request: HttpRequest) -> HttpResponse {
    assert!(request.headers().contains_key("authorization"));
    assert!(request.headers().contains_key("user-agent"));
    HttpResponse::Ok().content_type("application/json").body("{}")
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn rate(requests: usize, began: Instant) -> f64 {
    requests as f64 / began.elapsed().as_secs_f64()
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

/// Sorts, and says so in a line.
fn spread(values: &mut [f64], digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (lowest, highest) = (values[0], values[values.len() - 1]);
    format!("{:.digits$} ({lowest:.digits$} to {highest:.digits$})", median(values))
}
