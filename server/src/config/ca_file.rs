//! Files of CAs.

use std::path::Path;

use openssl::x509::X509;

/// Reads a file with certificates in PEM. The error completes the sentence "the setting …".
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path)
        .map_err(|error| format!("names a file that cannot be read: {error}"))?;
    match X509::stack_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(pem),
        _ => Err("names a file without a certificate in PEM".to_owned()),
    }
}
