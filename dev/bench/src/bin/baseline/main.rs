//! The baseline: Matchbook's components doing the work of each request, with nothing around
//! them. The difference to Matchbook is its own overhead.

mod key;
mod queue;
mod rotation;
mod serve;
mod statement;

use clap::Parser;

/// Matchbook's components with nothing around them.
#[derive(Parser)]
enum Arguments {
    /// Serve requests.
    Serve(serve::Options),
    /// Measure the SQL statement of a refresh alone.
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
