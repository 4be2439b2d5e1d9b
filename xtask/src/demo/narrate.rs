//! How the demo speaks: short, aligned, coloured only for people.

use std::io::IsTerminal as _;

/// Words in colour, where somebody looks at a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voice {
    /// Whether the output is a terminal that wants colours and lines that change in place.
    pub terminal: bool,
}

impl Voice {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var("TERM").is_ok_and(|terminal| terminal == "dumb");
        Self {
            terminal: std::io::stdout().is_terminal() && !plain && !dumb,
        }
    }

    /// A new act begins.
    pub fn act(self, title: &str) {
        println!("\n{}", self.paint("1", &format!("== {title}")));
    }

    /// A result: kept, or not.
    pub fn result(self, good: bool, text: &str) {
        println!("   {} {text}", self.mark(good));
    }

    /// `ok` or `NO`, in two columns.
    pub fn mark(self, good: bool) -> String {
        if good {
            self.paint("32", "ok")
        } else {
            self.paint("1;31", "NO")
        }
    }

    /// What matters less.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.terminal {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// What happens, in one line.
pub fn say(text: &str) {
    println!("   {text}");
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_coloured_in_a_file() {
        assert_eq!(Voice { terminal: false }.mark(true), "ok");
        assert_eq!(Voice { terminal: true }.mark(false), "\x1b[1;31mNO\x1b[0m");
    }

    #[test]
    fn long_numbers_are_grouped() {
        let shown: Vec<String> = [0, 999, 1000, 1_234_567].map(grouped).to_vec();
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }
}
