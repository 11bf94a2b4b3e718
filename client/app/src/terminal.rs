//! Secrets from standard input.

use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Reads a line, without its end. Asks for it on a terminal, which does not show it.
///
/// # Errors
/// When there is no line, or when the terminal would show it.
pub(crate) fn read_secret(what: &str) -> io::Result<String> {
    let input = io::stdin();
    if !input.is_terminal() {
        return read_line(&mut input.lock());
    }
    let hidden = HiddenInput::begin()?;
    let mut prompt = io::stderr();
    write!(prompt, "{what}: ")?;
    prompt.flush()?;
    let line = read_line(&mut input.lock());
    drop(hidden);
    // The line end of the input is hidden as well.
    writeln!(prompt)?;
    line
}

fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "there is no line"));
    }
    Ok(line.to_owned())
}

/// Hides typed characters until it is dropped.
struct HiddenInput(Termios);

impl HiddenInput {
    fn begin() -> io::Result<Self> {
        let shown = tcgetattr(io::stdin())?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(shown))
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_without_its_end_and_an_empty_one_is_an_error() {
        let mut input: &[u8] = b"pass word \r\n123456\nlast";
        for expected in ["pass word ", "123456", "last"] {
            assert_eq!(read_line(&mut input).unwrap(), expected);
        }
        assert_eq!(read_line(&mut input).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert!(read_line(&mut &b"\nrest"[..]).is_err());
    }
}
