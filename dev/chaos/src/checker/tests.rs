//! A valid and an invalid history for each invariant.

use super::*;
use crate::history::FaultWindow;
use crate::tokens::RefreshToken;

const HERE: Uuid = Uuid::from_u128(1);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn token(generation: u64) -> RefreshToken {
    RefreshToken { text: format!("token {generation}"), session: HERE, generation }
}

/// A request sent at this second, with a response half a second later.
fn request(sent: u64, operation: Operation, outcome: Outcome) -> Request {
    let is_first = operation.opens_session() || operation == Operation::Register;
    let session = (!is_first).then_some(HERE);
    let sent = at(sent);
    let done = sent + Duration::from_millis(500);
    Request { client: 0, server: 0, session, operation, sent, done, outcome }
}

fn log_in(sent: u64) -> Request {
    request(sent, Operation::LogIn, Outcome::Granted(token(0)))
}

fn refresh(sent: u64, generation: u64, outcome: Outcome) -> Request {
    request(sent, Operation::Refresh { presented: token(generation) }, outcome)
}

fn rotation(sent: u64, generation: u64) -> Request {
    refresh(sent, generation, Outcome::Granted(token(generation + 1)))
}

fn user(sent: u64, expires: u64, outcome: Outcome) -> Request {
    request(sent, Operation::User { expires: at(expires) }, outcome)
}

fn logout(sent: u64, outcome: Outcome) -> Request {
    request(sent, Operation::Logout, outcome)
}

fn rejected() -> Outcome {
    Outcome::Rejected("reuse".to_owned())
}

/// These requests, then the client's final refresh and `/user`.
fn with_final_requests(mut requests: Vec<Request>, generation: u64) -> History {
    requests.extend([rotation(100, generation), user(101, 120, Outcome::Accepted)]);
    history(requests, generation + 1)
}

fn history(requests: Vec<Request>, row: u64) -> History {
    History {
        requests,
        windows: Vec::new(),
        closing: at(100),
        end: at(102),
        max_recovery: at(10),
        rows: [(HERE, row)].into(),
    }
}

fn violated(history: &History) -> Vec<Invariant> {
    violations(history).into_iter().map(|violation| violation.invariant).collect()
}

#[test]
fn a_correct_history_has_no_violations() {
    let requests = vec![
        log_in(1),
        user(2, 17, Outcome::Accepted),
        refresh(3, 0, Outcome::NoResponse),
        refresh(4, 0, Outcome::Unavailable),
        rotation(5, 0),
        rotation(5, 0),
        // The access token has expired.
        user(21, 20, rejected()),
        rotation(22, 1),
    ];
    assert_eq!(violations(&with_final_requests(requests, 2)), []);
}

#[test]
fn a_refresh_token_rejected_without_a_logout_is_a_violation() {
    let requests = vec![log_in(1), rotation(2, 0), refresh(3, 1, rejected())];
    assert_eq!(violated(&history(requests, 1)), [Invariant::StaysLoggedIn]);
}

#[test]
fn an_access_token_rejected_before_its_expiry_is_a_violation() {
    let history = with_final_requests(vec![log_in(1), user(2, 17, rejected())], 0);
    assert_eq!(violated(&history), [Invariant::StaysLoggedIn]);
}

#[test]
fn a_token_may_be_rejected_once_a_logout_was_sent() {
    let unacknowledged = vec![log_in(1), logout(2, Outcome::NoResponse), refresh(3, 0, rejected())];
    assert_eq!(violated(&history(unacknowledged, 0)), []);
    // The logout may overtake an earlier request.
    let overtaken = vec![log_in(1), user(2, 17, rejected()), logout(2, Outcome::Accepted)];
    assert_eq!(violated(&history(overtaken, 0)), []);
}

#[test]
fn a_live_session_must_refresh_and_be_valid_at_the_end() {
    let alone = history(vec![log_in(1), rotation(2, 0)], 1);
    assert_eq!(violated(&alone), [Invariant::RefreshIsDurable]);
    let unknown =
        history(vec![log_in(1), rotation(100, 0), user(101, 120, Outcome::Unavailable)], 1);
    assert_eq!(violated(&unknown), [Invariant::RefreshIsDurable]);
    let gone = history(vec![log_in(1), logout(2, Outcome::Accepted)], 0);
    assert_eq!(violated(&gone), []);
}

#[test]
fn a_row_with_an_older_generation_is_a_lost_refresh() {
    let mut history = with_final_requests(vec![log_in(1), rotation(2, 0)], 1);
    assert_eq!(violated(&history), []);
    history.rows = [(HERE, 1)].into();
    assert_eq!(violated(&history), [Invariant::RefreshIsDurable]);
    history.rows.clear();
    assert_eq!(violated(&history), [Invariant::RefreshIsDurable]);
}

#[test]
fn a_second_successor_is_a_violation() {
    let other = RefreshToken { text: "another".to_owned(), ..token(1) };
    let fork = refresh(3, 0, Outcome::Granted(other));
    let history = with_final_requests(vec![log_in(1), rotation(2, 0), fork], 1);
    assert_eq!(violated(&history), [Invariant::OneSuccessor]);
}

#[test]
fn an_imported_token_must_be_accepted_and_has_one_successor() {
    let exchange = |sent, outcome| {
        request(sent, Operation::Exchange { presented: "theirs".to_owned() }, outcome)
    };
    let opened = exchange(1, Outcome::Granted(token(1)));
    let history = with_final_requests(vec![opened.clone(), opened.clone()], 1);
    assert_eq!(violated(&history), []);
    let other = RefreshToken { text: "another".to_owned(), ..token(1) };
    let fork = exchange(2, Outcome::Granted(other));
    let history = with_final_requests(vec![opened.clone(), fork], 1);
    assert_eq!(violated(&history), [Invariant::OneSuccessor]);
    let history = with_final_requests(vec![opened, exchange(2, rejected())], 1);
    assert_eq!(violated(&history), [Invariant::KnownResponses]);
}

#[test]
fn a_disabled_account_counts_as_a_logout_and_its_command_as_no_request_of_a_server() {
    let disable = |outcome| request(2, Operation::Disable, outcome);
    let ended = |later| history(vec![log_in(1), disable(Outcome::Accepted), later], 1);
    assert_eq!(violated(&ended(user(3, 17, Outcome::Accepted))), [Invariant::LogoutIsFinal]);
    assert_eq!(violated(&ended(user(3, 17, rejected()))), []);
    let works = user(11, 99, Outcome::Accepted);
    let late = Request { sent: at(30), ..disable(Outcome::NoResponse) };
    assert_eq!(recovery(&with_faults(vec![works, late]), 0), Some(Duration::ZERO));
}

#[test]
fn a_request_accepted_after_an_acknowledged_logout_is_a_violation() {
    let ended = |later: Request| history(vec![log_in(1), logout(2, Outcome::Accepted), later], 1);
    assert_eq!(violated(&ended(user(3, 17, Outcome::Accepted))), [Invariant::LogoutIsFinal]);
    assert_eq!(violated(&ended(rotation(3, 0))), [Invariant::LogoutIsFinal]);
    assert_eq!(violated(&ended(user(3, 17, rejected()))), []);
    // Sent before the response to the logout arrived.
    assert_eq!(violated(&ended(user(2, 17, Outcome::Accepted))), []);
}

#[test]
fn a_logout_counts_from_its_first_acknowledgement() {
    let requests = vec![
        log_in(1),
        logout(2, Outcome::NoResponse),
        user(3, 17, Outcome::Accepted),
        logout(4, Outcome::Accepted),
        user(5, 17, Outcome::Accepted),
        logout(6, Outcome::Accepted),
    ];
    let found = violations(&history(requests, 0));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].invariant, found[0].at), (Invariant::LogoutIsFinal, at(5)));
}

#[test]
fn an_undocumented_response_is_a_violation() {
    let unexpected = Outcome::Unexpected("500".to_owned());
    let history = with_final_requests(vec![log_in(1), user(2, 17, unexpected)], 0);
    assert_eq!(violated(&history), [Invariant::KnownResponses]);
    let rejected_registration = request(1, Operation::Register, rejected());
    assert_eq!(
        violated(&with_final_requests(vec![rejected_registration, log_in(2)], 0)),
        [Invariant::KnownResponses]
    );
}

/// A fault from second 5 to 10, and another from 40 to 41.
fn with_faults(requests: Vec<Request>) -> History {
    let window = |began, ended| {
        let name = "fault".to_owned();
        FaultWindow { name, began, ended, loses_writes: false }
    };
    let mut requests = [vec![log_in(1)], requests].concat();
    requests.push(user(50, 60, Outcome::Accepted));
    let history = with_final_requests(requests, 0);
    History { windows: vec![window(at(5), at(10)), window(at(40), at(41))], ..history }
}

#[test]
fn the_last_failure_determines_the_recovery_time() {
    let works = |sent| user(sent, 99, Outcome::Accepted);
    let soon = with_faults(vec![user(12, 99, Outcome::Unavailable), works(13)]);
    assert_eq!(recovery(&soon, 0), Some(at(2)));
    assert_eq!(violated(&soon), []);
    let relapse = vec![works(11), user(25, 99, Outcome::NoResponse), works(26)];
    let late = with_faults(relapse);
    assert_eq!(recovery(&late, 0), Some(at(15)));
    assert_eq!(violated(&late), [Invariant::RecoversInTime]);
}

#[test]
fn a_server_without_success_has_not_recovered() {
    let works = |sent| user(sent, 99, Outcome::Accepted);
    let other = |sent, outcome| Request { server: 1, ..user(sent, 99, outcome) };
    let mut one = with_faults(vec![works(11), other(12, Outcome::NoResponse)]);
    one.requests.push(other(50, Outcome::Accepted));
    assert_eq!(recovery(&one, 0), None);
    assert_eq!(violated(&one), [Invariant::RecoversInTime]);
    one.requests.push(other(13, Outcome::Accepted));
    assert_eq!(violated(&one), []);
}

#[test]
fn requests_broken_by_the_next_fault_do_not_count_for_the_previous_one() {
    let works = user(11, 99, Outcome::Accepted);
    let mut met = user(39, 99, Outcome::NoResponse);
    met.done = at(42);
    assert_eq!(recovery(&with_faults(vec![works, met]), 0), Some(Duration::ZERO));
}

/// As [`with_faults`], where the first fault may lose writes.
fn with_loss(requests: Vec<Request>) -> History {
    let mut history = with_faults(requests);
    history.windows[0].loses_writes = true;
    history
}

#[test]
fn a_session_opened_during_a_fault_that_loses_writes_may_be_lost() {
    let works = || user(30, 40, Outcome::Accepted);
    let login = |sent| vec![log_in(sent), refresh(20, 0, rejected()), works()];
    let of_second_session = |mut history: History| {
        history.requests.remove(0);
        history
    };
    assert_eq!(violated(&of_second_session(with_loss(login(7)))), []);
    for (sent, history) in [(7, with_faults(login(7))), (12, with_loss(login(12)))] {
        let found = violated(&of_second_session(history));
        assert_eq!(found, [Invariant::StaysLoggedIn], "opened at {sent}");
    }
}

#[test]
fn a_rotation_during_a_fault_that_loses_writes_may_be_lost_but_its_session_stays() {
    let mut lost = with_loss(vec![rotation(7, 0), refresh(20, 1, rejected())]);
    lost.rows = [(HERE, 0)].into();
    assert!(violated(&lost).contains(&Invariant::StaysLoggedIn));
}

#[test]
fn a_logout_during_a_fault_that_loses_writes_holds() {
    let accepted = user(20, 30, Outcome::Accepted);
    let history = with_loss(vec![logout(7, Outcome::Accepted), accepted]);
    assert!(violated(&history).contains(&Invariant::LogoutIsFinal));
}

#[test]
fn only_a_login_after_a_lost_registration_may_fail() {
    let unknown = || Outcome::Unexpected("404 unknown user".to_owned());
    let requests = |registered| {
        let register = request(registered, Operation::Register, Outcome::Accepted);
        let works = user(30, 40, Outcome::Accepted);
        vec![register, request(13, Operation::LogIn, unknown()), works]
    };
    assert_eq!(violated(&with_loss(requests(7))), []);
    assert_eq!(violated(&with_loss(requests(12))), [Invariant::KnownResponses]);
}
