//! One good and one bad history for each rule.

use super::*;
use crate::history::Episode;
use crate::tokens::RefreshToken;

const HERE: Uuid = Uuid::from_u128(1);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn token(generation: u64) -> RefreshToken {
    RefreshToken { text: format!("token {generation}"), session: HERE, generation }
}

/// Sent at that second and answered half a second later.
fn request(sent: u64, asked: Asked, outcome: Outcome) -> Request {
    let session = (!matches!(asked, Asked::Register | Asked::SignIn)).then_some(HERE);
    let (sent, done) = (at(sent), at(sent) + Duration::from_millis(500));
    Request { client: 0, server: 0, session, asked, sent, done, outcome }
}

fn sign_in(sent: u64) -> Request {
    request(sent, Asked::SignIn, Outcome::Granted(token(0)))
}

fn refresh(sent: u64, generation: u64, outcome: Outcome) -> Request {
    request(sent, Asked::Refresh { shown: token(generation) }, outcome)
}

fn rotation(sent: u64, generation: u64) -> Request {
    refresh(sent, generation, Outcome::Granted(token(generation + 1)))
}

fn user(sent: u64, expires: u64, outcome: Outcome) -> Request {
    request(sent, Asked::User { expires: at(expires) }, outcome)
}

fn logout(sent: u64, outcome: Outcome) -> Request {
    request(sent, Asked::Logout, outcome)
}

fn refused() -> Outcome {
    Outcome::Refused("reuse".to_owned())
}

/// That far, and then the client's last refresh and look at who it is.
fn lived(mut requests: Vec<Request>, generation: u64) -> History {
    requests.extend([rotation(100, generation), user(101, 120, Outcome::Accepted)]);
    history(requests, generation + 1)
}

fn history(requests: Vec<Request>, row: u64) -> History {
    let (closing, end) = (at(100), at(102));
    History { requests, episodes: Vec::new(), closing, end, rows: [(HERE, row)].into() }
}

fn broken(history: &History) -> Vec<Rule> {
    violations(history).into_iter().map(|violation| violation.rule).collect()
}

#[test]
fn a_client_that_is_served_well_has_nothing_to_complain_of() {
    let requests = vec![
        sign_in(1),
        user(2, 17, Outcome::Accepted),
        refresh(3, 0, Outcome::Silent),
        refresh(4, 0, Outcome::Away),
        rotation(5, 0),
        rotation(5, 0),
        // Its own life was over.
        user(21, 20, refused()),
        rotation(22, 1),
    ];
    assert_eq!(violations(&lived(requests, 2)), []);
}

#[test]
fn a_refresh_token_refused_without_a_logout_is_a_logged_out_client() {
    let requests = vec![sign_in(1), rotation(2, 0), refresh(3, 1, refused())];
    assert_eq!(broken(&history(requests, 1)), [Rule::StaysLoggedIn]);
}

#[test]
fn an_access_token_refused_before_its_time_is_a_logged_out_client() {
    let history = lived(vec![sign_in(1), user(2, 17, refused())], 0);
    assert_eq!(broken(&history), [Rule::StaysLoggedIn]);
}

#[test]
fn a_token_refused_once_a_logout_was_sent_is_as_it_should_be() {
    let unanswered = vec![sign_in(1), logout(2, Outcome::Silent), refresh(3, 0, refused())];
    assert_eq!(broken(&history(unanswered, 0)), []);
    // It may overtake what was sent before it.
    let overtaken = vec![sign_in(1), user(2, 17, refused()), logout(2, Outcome::Accepted)];
    assert_eq!(broken(&history(overtaken, 0)), []);
}

#[test]
fn a_live_client_must_refresh_and_be_known_at_the_end() {
    let alone = history(vec![sign_in(1), rotation(2, 0)], 1);
    assert_eq!(broken(&alone), [Rule::RefreshIsKept]);
    let unknown = history(vec![sign_in(1), rotation(100, 0), user(101, 120, Outcome::Away)], 1);
    assert_eq!(broken(&unknown), [Rule::RefreshIsKept]);
    let gone = history(vec![sign_in(1), logout(2, Outcome::Accepted)], 0);
    assert_eq!(broken(&gone), []);
}

#[test]
fn a_row_behind_what_its_client_was_given_is_a_lost_refresh() {
    let mut history = lived(vec![sign_in(1), rotation(2, 0)], 1);
    assert_eq!(broken(&history), []);
    history.rows = [(HERE, 1)].into();
    assert_eq!(broken(&history), [Rule::RefreshIsKept]);
    history.rows.clear();
    assert_eq!(broken(&history), [Rule::RefreshIsKept]);
}

#[test]
fn one_token_has_one_successor() {
    let other = RefreshToken { text: "another".to_owned(), ..token(1) };
    let fork = refresh(3, 0, Outcome::Granted(other));
    let history = lived(vec![sign_in(1), rotation(2, 0), fork], 1);
    assert_eq!(broken(&history), [Rule::OneSuccessor]);
}

#[test]
fn nothing_sent_after_an_acknowledged_logout_is_accepted() {
    let ended = |later: Request| history(vec![sign_in(1), logout(2, Outcome::Accepted), later], 1);
    assert_eq!(broken(&ended(user(3, 17, Outcome::Accepted))), [Rule::LogoutIsFinal]);
    assert_eq!(broken(&ended(rotation(3, 0))), [Rule::LogoutIsFinal]);
    assert_eq!(broken(&ended(user(3, 17, refused()))), []);
    // Sent before the answer to the logout was there.
    assert_eq!(broken(&ended(user(2, 17, Outcome::Accepted))), []);
}

#[test]
fn a_logout_counts_from_its_first_acknowledgement() {
    let requests = vec![
        sign_in(1),
        logout(2, Outcome::Silent),
        user(3, 17, Outcome::Accepted),
        logout(4, Outcome::Accepted),
        user(5, 17, Outcome::Accepted),
        logout(6, Outcome::Accepted),
    ];
    let found = violations(&history(requests, 0));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].rule, found[0].at), (Rule::LogoutIsFinal, at(5)));
}

#[test]
fn an_answer_that_no_client_knows_is_told() {
    let wrong = Outcome::Wrong("500".to_owned());
    let history = lived(vec![sign_in(1), user(2, 17, wrong)], 0);
    assert_eq!(broken(&history), [Rule::KnownAnswers]);
    let stranger = request(1, Asked::Register, refused());
    assert_eq!(broken(&lived(vec![stranger, sign_in(2)], 0)), [Rule::KnownAnswers]);
}

/// A fault that ends at the tenth second, and another at the fortieth.
fn with_faults(requests: Vec<Request>) -> History {
    let episode = |began, ended| Episode { name: "fault".to_owned(), began, ended };
    let mut requests = [vec![sign_in(1)], requests].concat();
    requests.push(user(50, 60, Outcome::Accepted));
    let history = lived(requests, 0);
    History { episodes: vec![episode(at(5), at(10)), episode(at(40), at(41))], ..history }
}

#[test]
fn the_last_failure_counts_as_the_time_to_recover() {
    let works = |sent| user(sent, 99, Outcome::Accepted);
    let soon = with_faults(vec![user(12, 99, Outcome::Away), works(13)]);
    assert_eq!(recovery(&soon, 0), Some(at(2)));
    assert_eq!(broken(&soon), []);
    let relapse = vec![works(11), user(25, 99, Outcome::Silent), works(26)];
    let late = with_faults(relapse);
    assert_eq!(recovery(&late, 0), Some(at(15)));
    assert_eq!(broken(&late), [Rule::RecoversSoon]);
}

#[test]
fn a_server_that_never_works_again_has_not_recovered() {
    let works = |sent| user(sent, 99, Outcome::Accepted);
    let other = |sent, outcome| Request { server: 1, ..user(sent, 99, outcome) };
    let mut one = with_faults(vec![works(11), other(12, Outcome::Silent)]);
    one.requests.push(other(50, Outcome::Accepted));
    assert_eq!(recovery(&one, 0), None);
    assert_eq!(broken(&one), [Rule::RecoversSoon]);
    one.requests.push(other(13, Outcome::Accepted));
    assert_eq!(broken(&one), []);
}

#[test]
fn what_the_next_fault_broke_does_not_count_for_the_one_before() {
    let works = user(11, 99, Outcome::Accepted);
    let mut met = user(39, 99, Outcome::Silent);
    met.done = at(42);
    assert_eq!(recovery(&with_faults(vec![works, met]), 0), Some(Duration::ZERO));
}
