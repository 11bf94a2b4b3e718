//! Measures the overhead of the refreshing client for requests without a refresh. Requests
//! of `matchbook_client::Client` and of plain awc alternate, to a small server.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use clap::Parser;
use matchbook_client::{Client, Credentials, RootCerts, Server, TokenResponse};

/// Compares the refreshing client with plain awc.
#[derive(Parser)]
struct Arguments {
    /// Rounds per client.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Requests per round.
    #[arg(long, default_value_t = 2000)]
    requests: usize,
    /// Exit with 1 below this ratio.
    #[arg(long, default_value_t = 0.95)]
    min_ratio: f64,
}

#[actix_rt::main]
async fn main() -> ExitCode {
    let Arguments { rounds, requests, min_ratio } = Arguments::parse();
    let url = start_server();
    let server = Server::new(&url, &RootCerts::System, Duration::from_secs(10)).unwrap();
    let client = Client::new(&server, Credentials::default());
    let token = "t".repeat(700);
    let tokens =
        TokenResponse { token: token.clone(), refresh_token: "r".to_owned(), expires_in: 3600 };
    client.log_in_with(tokens).await.unwrap();
    // Both send the same bytes, including the user agent.
    let name = concat!("matchbook-client/", env!("CARGO_PKG_VERSION"));
    let plain = awc::Client::builder().disable_redirects();
    let plain = plain.add_default_header(("user-agent", name)).finish();
    let target = format!("{url}/user");

    let mut by_client = Vec::new();
    let mut by_awc = Vec::new();
    let mut ratios = Vec::new();
    // The first round is a warm-up.
    for round in 0..=rounds {
        let began = Instant::now();
        for _ in 0..requests {
            let mut response = client.get("/user").send().await.unwrap();
            assert_eq!(response.body().await.unwrap(), "{}");
        }
        let client_rate = rate(requests, began);
        let began = Instant::now();
        for _ in 0..requests {
            let request = plain.get(&target).bearer_auth(&token);
            let mut response = request.send().await.unwrap();
            assert_eq!(response.body().await.unwrap(), "{}");
        }
        let awc_rate = rate(requests, began);
        if round > 0 {
            by_client.push(client_rate);
            by_awc.push(awc_rate);
            ratios.push(client_rate / awc_rate);
        }
    }
    println!("requests per second, median of {rounds} (lowest to highest):");
    println!("  client {}", spread(&mut by_client, 0));
    println!("  awc    {}", spread(&mut by_awc, 0));
    println!("ratio of neighboring rounds (at least {min_ratio}):");
    println!("  {}", spread(&mut ratios, 3));
    if median(&ratios) >= min_ratio { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Starts a server on a thread that responds with `{}` to requests with a bearer token.
fn start_server() -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let server = HttpServer::new(|| App::new().route("/user", web::get().to(user)))
                .workers(1)
                .disable_signals()
                .bind("127.0.0.1:0")
                .unwrap();
            sender.send(format!("http://{}", server.addrs()[0])).unwrap();
            server.run().await
        })
    });
    receiver.recv().unwrap()
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

/// Sorts the values. Formats their median and range.
fn spread(values: &mut [f64], digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let lowest = values[0];
    let highest = values[values.len() - 1];
    format!("{:.digits$} ({lowest:.digits$} to {highest:.digits$})", median(values))
}
