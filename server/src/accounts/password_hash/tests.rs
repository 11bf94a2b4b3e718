//! Hashes that other programs wrote: passlib 1.7.4, Django 5.2.19, Werkzeug 3.1.9 and
//! `htpasswd -B` of Apache 2.4.67, with a low cost. A test with Python compares with
//! installed versions.

use super::*;

const PASSWORD: &str = "violet tractor seven hums";

fn verify(text: &str, stored: &str) -> Verdict {
    let password = Password::presented(&text.to_owned().into()).unwrap();
    super::verify(&password, stored, &mut vec![Block::default(); 2048]).unwrap()
}

#[test]
fn hashes_of_other_programs_fit_their_password_only() {
    for stored in [
        // passlib
        "$argon2id$v=19$m=1024,t=2,p=2$D8H4P4dw7n3vPeecs9Z67w$/oq/fIiSluSTpMJ4vvjqo/7IQcewgKXt3hc6aziHPVI",
        "$argon2i$v=19$m=1024,t=2,p=1$dO69l7I2Zux97x2DEKK09g$wDgrPUui+Wvnr7Oxfc4cJAZ9ADPUcM3h++ibdF2vQG4",
        "$argon2d$v=19$m=1024,t=1,p=1$C4EwJgSgNKY05nxP6T0nJA$FHjzCHi2IDD72OZOslAxNBlnMTDllIBAotITzr5dFWY",
        "$scrypt$ln=10,r=8,p=1$CkHIeQ+BMGasdc6ZM2YspQ$dkQ83p1MOgFm/ScqM/FxHV1rSXzMaIiCkt9pw4DCVz0",
        "$pbkdf2$1000$6D1n7J3TOgfgvJeSsrb2vg$Lvs4vtsd6djRC7Kn3o0k2JpR6Rw",
        "$pbkdf2-sha256$1000$p7S29p7TutdayzmH0BqjFA$TH5dJwn8nbfZB9J/u7BQl7kEZYh5tiPibApXLvANvmI",
        "$pbkdf2-sha512$1000$DmEMIcSYs/Yeo/Tee4/x3g$k3r0eYgp6Gli.UHJ3Z9VAEdo8ZqsShG4nVk22Z8myTYmF8S85gPvvLvF5v2BfS3YMbBwUjeUZ3l1ye9bTIT6UQ",
        "$2b$04$zv/gv3uMoN7X3CuvZ1ga9uncq0Diq4NB6qH68CJ00gnAd.KygdtWa",
        "$2a$04$40Eyd2iiIMIIdOEcGh7wN.kN1uUoC5wTxIecrIu2Sxf7uE5u1DeLW",
        "$2y$04$NhYtw5tsmJ7m10hBWVcSFu46nrqYFyjsN68rmv2cqxz78tNRH/sqO",
        "pbkdf2_sha256$1000$t35qCYqaDCnV$wmSWTR0pYB9krT5UFEX06v3RNfTgknbd2c+Rwh/abq8=",
        // Django
        "pbkdf2_sha256$1000$tCzvCEzYxTEoTlibJg83S9$aQcVk6NuPbqKbKNkxcbcUaRUZjapdahapxoSUG2Bn+4=",
        "pbkdf2_sha1$1000$3tLF2m32MXI5AbRPBvAUdW$TdnO8gu7wxus24L6KhVX1t87tqc=",
        "argon2$argon2id$v=19$m=1024,t=1,p=8$MXhhN3l6aHBUQ1lvQnlKc2FCU3lFVw$18/Z8PkY710FRtroCRkO3upPaGcFMLgOvLe38gHexKg",
        "bcrypt_sha256$$2b$04$/urRkrQ9b2GFxkNrVa18ru.wW0GTVquVng1H1g5L1AIzrFPuWnHGm",
        "bcrypt$$2b$04$KK9IcqB4qi3GHcZv3RpXq.I0hFPDoL9iKQGrmyC1TBJzAfAStZl5C",
        "scrypt$1024$iIBuupGkcwdRxrX0ciynDK$8$5$LU37LtWVjdfdwwJYjUfzUUiG+pNnzBlUnM/Vr4a1luvXzOF601Rl2DUIRseamvgleVod6KNGeB9qwNNsTrQhgw==",
        // Werkzeug
        "pbkdf2:sha1:1000$VlUj3zPdcfZT0Ppx$9a49fc464ef0df2596bdcacbe7321f1ccc8f1a15",
        "pbkdf2:sha256:1000$tTISWKfh0zV9Fw6a$5ca6eaa64220c03c25dbe4b91951f10876df4c864e717893b0b80a2cb7fe621c",
        "pbkdf2:sha512:1000$qDluPkt1qySBLYrC$98c9391d640f669e8f9ec649f65563db07e786f4d1894f766e44a0ab3eec886e7fc2db730a6d56cf54f58bbedbce381cedc5232293bec175023e7770a2351ea1",
        "scrypt:1024:8:1$XzsAVIlsQ0tgNmU3$d1dce0be232842c939e26b5e1fc3d5af6d5beffa01115a96939bf0e7b88faa4047abf4c9a024b98cca982a35ae7e708f26f4088cff0bfa313be4affd99f310b8",
        // htpasswd
        "$2y$04$uVFuNQBst6Ff8zvgQG.VB.Ahl9mJvnlE4HODtd7VyWFit.1P00ePO",
    ] {
        assert_eq!(verify(PASSWORD, stored), Verdict::RightButOutdated, "{stored}");
        for wrong in ["violet tractor seven hum", "Violet tractor seven hums", ""] {
            assert_eq!(verify(wrong, stored), Verdict::Wrong, "{stored} {wrong}");
        }
    }
}

/// An example of the crate `pbkdf2`, in the form of the PHC.
#[test]
fn parameters_of_pbkdf2_may_have_names() {
    let stored = "$pbkdf2-sha256$i=1000,l=32$p7S29p7TutdayzmH0BqjFA$TH5dJwn8nbfZB9J/u7BQl7kEZYh5tiPibApXLvANvmI";
    assert_eq!(verify(PASSWORD, stored), Verdict::RightButOutdated);
}

#[test]
fn passwords_that_bcrypt_truncates_keep_their_hash() {
    let long = "x".repeat(80);
    for stored in [
        "$2b$04$Ym7uKfSwdXwOv8w7YQOV3uX3W3OfxkYbg1WpNC2OfTueNb1BarzJO",
        "$2y$04$57F1Wp4uOFNspJrJ16Hs0ORdE80Tjq196y5XCWXGUNFbnTNhzGMFq",
    ] {
        assert_eq!(verify(&long, stored), Verdict::Right, "{stored}");
        assert_eq!(verify(&long[..72], stored), Verdict::RightButOutdated, "{stored}");
        assert_eq!(verify(&long[..71], stored), Verdict::Wrong, "{stored}");
    }
    let of_digest = "bcrypt_sha256$$2b$04$r7TUdqeIr1tkubMWC4AexOTfFGUxDYL1Dcg/SMPOIqqEjyMOegu2a";
    assert_eq!(verify(&long, of_digest), Verdict::RightButOutdated);
    assert_eq!(verify(&long[..72], of_digest), Verdict::Wrong);
}

#[test]
fn text_as_typed_and_its_normal_form_fit_a_hash_of_either() {
    let (composed, decomposed) = ("caf\u{e9} fine", "cafe\u{301} \u{fb01}ne");
    let foreign = |text: &str| ::bcrypt::hash_with_salt(text, 4, [7; 16]).unwrap().to_string();
    for (stored, presented, expected) in [
        (foreign(decomposed), decomposed, Verdict::RightButOutdated),
        (foreign(composed), decomposed, Verdict::RightButOutdated),
        (foreign(decomposed), composed, Verdict::Wrong),
    ] {
        assert_eq!(verify(presented, &stored), expected, "{presented}");
    }
    // Argon2id with our parameters, of a text that is not normalized.
    let mut hash = [0; HASH_LEN];
    let argon2 = current().unwrap();
    argon2.hash_password_into(decomposed.as_bytes(), &[7; 16], &mut hash).unwrap();
    let stored = encode(&argon2, &[7; 16], &hash).unwrap();
    assert_eq!(verify(decomposed, &stored), Verdict::RightButOutdated);
    assert_eq!(verify(composed, &stored), Verdict::Wrong);
}

#[test]
fn malformed_hashes_are_rejected() {
    let base64 = "p7S29p7TutdayzmH0BqjFA";
    let hash = "TH5dJwn8nbfZB9J/u7BQl7kEZYh5tiPibApXLvANvmI";
    for (stored, expected) in [
        (String::new(), UnusableHash::UnknownFormat),
        ("password".into(), UnusableHash::UnknownFormat),
        ("$1$salt$hash".into(), UnusableHash::UnknownFormat),
        ("md5$salt$0123".into(), UnusableHash::UnknownFormat),
        ("sha256:1000$salt$0123".into(), UnusableHash::UnknownFormat),
        (
            "pbkdf2:md5:1000$salt$0123456789abcdef0123456789abcdef".into(),
            UnusableHash::UnknownFormat,
        ),
        ("pbkdf2:sha256$salt$0123".into(), UnusableHash::Malformed),
        ("scrypt:1000:8:1$salt$0123456789abcdef0123456789abcdef".into(), UnusableHash::Malformed),
        (format!("$pbkdf2-md5$1000${base64}${hash}"), UnusableHash::UnknownFormat),
        (format!("$pbkdf2-sha256$0${base64}${hash}"), UnusableHash::Malformed),
        (format!("$pbkdf2-sha256$1000${base64}$"), UnusableHash::Malformed),
        (format!("$pbkdf2-sha256$1000${base64}$AAAA"), UnusableHash::Malformed),
        (format!("$pbkdf2-sha256$1000$${hash}"), UnusableHash::Malformed),
        (format!("$pbkdf2-sha256$1000${base64}${hash}$x"), UnusableHash::Malformed),
        (format!("$pbkdf2-sha256$-1${base64}${hash}"), UnusableHash::Malformed),
        (format!("$scrypt$ln=10,r=8${base64}${hash}"), UnusableHash::Malformed),
        (format!("$scrypt$ln=0,r=8,p=1${base64}${hash}"), UnusableHash::Malformed),
        (format!("$scrypt$ln=10,r=0,p=1${base64}${hash}"), UnusableHash::Malformed),
        (format!("$argon2id$v=19$m=1,t=1,p=1${base64}${hash}"), UnusableHash::Malformed),
        (format!("$argon2id$v=99$m=1024,t=1,p=1${base64}${hash}"), UnusableHash::Malformed),
        (format!("$argon2id$v=19$m=1024,t=1,p=1${base64}"), UnusableHash::Malformed),
        (format!("$argon2x$v=19$m=1024,t=1,p=1${base64}${hash}"), UnusableHash::UnknownFormat),
        ("$2b$04$short".into(), UnusableHash::Malformed),
        (
            "$2b$03$zv/gv3uMoN7X3CuvZ1ga9uncq0Diq4NB6qH68CJ00gnAd.KygdtWa".into(),
            UnusableHash::Malformed,
        ),
        (
            "$2x$04$zv/gv3uMoN7X3CuvZ1ga9uncq0Diq4NB6qH68CJ00gnAd.KygdtWa".into(),
            UnusableHash::UnknownFormat,
        ),
        ("bcrypt$salt$hash".into(), UnusableHash::Malformed),
        ("pbkdf2_sha256$1000$salt".into(), UnusableHash::Malformed),
    ] {
        assert_eq!(check(&stored), Err(expected), "{stored}");
    }
}

#[test]
fn expensive_hashes_are_rejected_at_the_limit() {
    let base64 = "p7S29p7TutdayzmH0BqjFA";
    let hash = "TH5dJwn8nbfZB9J/u7BQl7kEZYh5tiPibApXLvANvmI";
    for (prefix, permitted, too_expensive) in [
        ("$argon2id$v=19$", "m=262144,t=1,p=1", "m=262145,t=1,p=1"),
        ("$argon2id$v=19$", "m=65536,t=128,p=1", "m=65536,t=129,p=1"),
        ("$scrypt$", "ln=17,r=8,p=1", "ln=18,r=8,p=1"),
        ("$scrypt$", "ln=17,r=8,p=16", "ln=17,r=8,p=17"),
        ("$scrypt$", "ln=10,r=8,p=1", "ln=4000000000,r=4000000000,p=4000000000"),
        ("$scrypt$", "ln=10,r=8,p=1", "ln=10,r=8,p=4000000000"),
        ("$pbkdf2-sha256$", "10000000", "10000001"),
    ] {
        let with = |params: &str| check(&format!("{prefix}{params}${base64}${hash}"));
        assert_eq!(with(permitted), Ok(()), "{permitted}");
        assert_eq!(with(too_expensive), Err(UnusableHash::TooExpensive), "{too_expensive}");
    }
    let bcrypt =
        |cost| check(&format!("$2b${cost}$zv/gv3uMoN7X3CuvZ1ga9uncq0Diq4NB6qH68CJ00gnAd.KygdtWa"));
    assert_eq!((bcrypt(16), bcrypt(17)), (Ok(()), Err(UnusableHash::TooExpensive)));
}

#[test]
fn new_hash_is_argon2id_and_needs_no_upgrade() {
    let password = Password::presented(&PASSWORD.to_owned().into()).unwrap();
    let hash = create_here(&password).unwrap();
    assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    assert_eq!(verify(PASSWORD, &hash), Verdict::Right);
    assert_eq!(check(&hash), Ok(()));
    assert_eq!(verify(PASSWORD, &dummy()), Verdict::Wrong);
}
