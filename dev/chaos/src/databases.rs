//! One PostgreSQL, or a primary and a standby, and how they fail over.

use std::thread;
use std::time::Duration;

use matchbook_testkit::{Postgres, Stop};

use crate::fault::{Fault, Timings};
use crate::topology::Topology;

/// The name of the database.
const DATABASE: &str = "matchbook";

/// How long an asynchronous standby lags behind before its primary is lost.
const LAG: Duration = Duration::from_millis(300);

/// The PostgreSQL servers of a run.
pub(super) struct Databases {
    nodes: Vec<Postgres>,
    /// Index of the primary.
    primary: usize,
    is_synchronous: bool,
}

impl Databases {
    pub(super) fn start(topology: Topology) -> Self {
        let primary = Postgres::new();
        primary.create(DATABASE);
        let mut nodes = vec![primary];
        let is_synchronous = topology == Topology::Synchronous;
        if is_synchronous || topology == Topology::Asynchronous {
            nodes.push(Postgres::standby_of(&nodes[0]));
        }
        let databases = Self { nodes, primary: 0, is_synchronous };
        databases.await_standby();
        databases
    }

    /// Returns the URL with the address of each node, as an operator writes it. With
    /// `standby_first`, it names the standby first and permits any node, so that a server has
    /// to find the primary itself.
    pub(super) fn url(&self, standby_first: bool) -> String {
        let mut addresses: Vec<String> = self.nodes.iter().map(Postgres::address).collect();
        if !standby_first || addresses.len() == 1 {
            return format!("postgres://postgres@{}/{DATABASE}", addresses.join(","));
        }
        addresses.reverse();
        let addresses = addresses.join(",");
        format!("postgres://postgres@{addresses}/{DATABASE}?target_session_attrs=any")
    }

    /// Returns the URL of the primary.
    pub(super) fn primary_url(&self) -> String {
        self.primary().url_of(DATABASE)
    }

    pub(super) fn primary(&self) -> &Postgres {
        &self.nodes[self.primary]
    }

    pub(super) fn primary_mut(&mut self) -> &mut Postgres {
        &mut self.nodes[self.primary]
    }

    pub(super) fn has_standby(&self) -> bool {
        self.nodes.len() > 1
    }

    fn standby(&self) -> &Postgres {
        &self.nodes[1 - self.primary]
    }

    /// Replaces the primary by the standby. Returns once the standby accepts writes.
    pub(super) fn fail_over(&mut self, fault: Fault, timings: &Timings) {
        match fault {
            Fault::FreezePrimary => {
                self.primary().pause();
                thread::sleep(timings.freeze);
            }
            Fault::DemotePrimary => {
                self.primary().configure("default_transaction_read_only", "on");
                self.standby().catch_up(self.primary());
            }
            Fault::LosePrimary => {
                self.standby().disconnect_from_primary();
                thread::sleep(LAG);
                self.primary_mut().kill();
            }
            _ => self.primary_mut().kill(),
        }
        self.standby().promote();
        self.primary = 1 - self.primary;
        if self.is_synchronous {
            // Commits do not wait for the former primary.
            self.primary().configure("synchronous_standby_names", "");
        }
    }

    /// Ends the former primary, and makes it the standby.
    pub(super) fn repair(&mut self) {
        let (left, right) = self.nodes.split_at_mut(1);
        let (former, primary) = match (self.primary, right) {
            (0, [right]) => (right, &left[0]),
            (_, [right]) => (&mut left[0], &*right),
            _ => return,
        };
        former.rejoin(primary);
        self.await_standby();
    }

    /// Waits until the standby has all data, and from then on has commits wait for it if it is
    /// synchronous.
    fn await_standby(&self) {
        if self.has_standby() {
            self.standby().catch_up(self.primary());
        }
        if self.is_synchronous {
            self.primary().configure("synchronous_standby_names", "*");
        }
    }

    /// Stops the primary for a while.
    pub(super) fn stop(&mut self, time: Duration) {
        self.primary_mut().stop(Stop::Fast);
        thread::sleep(time);
        self.primary_mut().start();
    }

    /// Sets a setting of the primary for a while.
    pub(super) fn set(&self, (name, value): (&str, &str), time: Duration) {
        self.primary().configure(name, value);
        thread::sleep(time);
        self.primary().reset(name);
    }
}
