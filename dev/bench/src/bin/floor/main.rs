//! The floor under Matchbook: the parts that it is made of, doing the work that
//! it does for each request, with nothing around them. What Matchbook loses
//! against it is what Matchbook itself costs.

mod key;
mod queue;
mod rotation;
mod serve;
mod statement;

use clap::Parser;

/// The parts of Matchbook with nothing around them.
#[derive(Parser)]
enum Arguments {
    /// Answer requests.
    Serve(serve::Options),
    /// Drive the one statement of a refresh, and print how fast it went.
    Statement(statement::Options),
}

#[actix_rt::main]
async fn main() -> std::io::Result<()> {
    match Arguments::parse() {
        Arguments::Serve(options) => serve::serve(options).await,
        Arguments::Statement(options) => {
            statement::drive(&options);
            Ok(())
        }
    }
}
