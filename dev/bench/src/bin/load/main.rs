//! Loads a server from one thread and checks every response. The first unexpected response
//! ends the process.

mod arguments;
mod client;

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::arguments::Arguments;
use crate::client::{Client, Tokens, fail};

/// Timeout for the responses to the last requests.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, run(Arguments::parse()));
}

async fn run(arguments: Arguments) {
    let arguments = Rc::new(arguments);
    let tokens = Rc::new(Tokens::read(&arguments));
    let warm_up = Duration::from_secs_f64(arguments.warmup);
    let measured = Duration::from_secs_f64(arguments.seconds);

    let mut clients = Vec::new();
    for index in 0..arguments.connections {
        clients.push(Client::new(&arguments, &tokens, index).await);
    }
    let clients = all(clients, |mut client| async {
        client.prepare().await;
        client
    });
    let clients = clients.await;
    let (clients, warmed, _) = rounds(clients, warm_up).await;
    println!("warm");
    if arguments.wait {
        std::io::stdin().read_line(&mut String::new()).unwrap();
    }
    let (clients, mut times, took) = rounds(clients, measured).await;
    tokens.write(&arguments);

    times.sort_unstable();
    let percentile =
        |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    let result = serde_json::json!({
        "requests": times.len(),
        "all_requests": times.len() + warmed.len(),
        "seconds": took.as_secs_f64(),
        "p50_us": micros(percentile(50)),
        "p99_us": micros(percentile(99)),
        "max_us": micros(times.last().copied().unwrap_or_default()),
        "cpu_us": cpu_us(),
        "busy": clients.iter().map(|client| client.busy).sum::<usize>(),
    });
    println!("{result}");
}

/// Runs all clients for some time. Each completes its last request, so that only complete
/// requests are counted.
async fn rounds(clients: Vec<Client>, time: Duration) -> (Vec<Client>, Vec<Duration>, Duration) {
    let began = Instant::now();
    let end = began + time;
    let done = all(clients, move |mut client| async move {
        while Instant::now() < end {
            client.send().await;
        }
        client
    });
    let Ok(mut clients) = timeout(time + RESPONSE_TIMEOUT, done).await else {
        fail("a response to every request", &format!("a timeout after {RESPONSE_TIMEOUT:?}"))
    };
    let took = began.elapsed();
    let times = clients.iter_mut().flat_map(|client| std::mem::take(&mut client.times)).collect();
    (clients, times, took)
}

/// Runs an action of all clients concurrently.
async fn all<F>(clients: Vec<Client>, does: impl Fn(Client) -> F) -> Vec<Client>
where
    F: Future<Output = Client> + 'static,
{
    let tasks: Vec<_> =
        clients.into_iter().map(|client| tokio::task::spawn_local(does(client))).collect();
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.unwrap());
    }
    done
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Returns the processor time of this thread in microseconds, on Linux.
fn cpu_us() -> Option<u64> {
    let text = fs::read_to_string(Path::new("/proc/self/schedstat")).ok()?;
    Some(text.split(' ').next()?.parse::<u64>().ok()? / 1000)
}
