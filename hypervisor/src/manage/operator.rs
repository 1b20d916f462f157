//! What is typed on COM1 is for Baton: one command a line. `upgrade NAME` takes a kept boot module as the next image; from there on it is an
//! upload like any other. Only where there is such a module: nobody else has a reason to type.

use alloc::format;
use alloc::string::String;

use super::control::Machine;
use crate::api::control::Control;
use crate::api::error::ApiError;
use crate::{console, modules, time};

/// Between two looks at the port, in milliseconds.
const POLL_MS: u64 = 20;
/// The longest line; more is no command.
const LONGEST: usize = 128;

/// A line on its way in.
pub struct Operator {
    line: String,
    due: u64,
}

impl Operator {
    /// Nothing was typed.
    pub const fn new() -> Self {
        Self { line: String::new(), due: 0 }
    }

    /// Looks at the port; obeys a line that is whole. Returns when to come back, in ticks of the TSC.
    pub fn poll(&mut self, now: u64, machine: &mut Machine) -> u64 {
        if !modules::any() {
            return u64::MAX;
        }
        if now >= self.due {
            // Whoever types without end gets no more of this pCPU than a line at a time.
            for byte in core::iter::from_fn(console::received).take(LONGEST) {
                if let Some(line) = self.take(byte) {
                    obey(&line, machine);
                }
            }
            self.due = now.saturating_add(time::ms_to_ticks(POLL_MS));
        }
        self.due
    }

    /// A byte; the line that it ends.
    fn take(&mut self, byte: u8) -> Option<String> {
        match byte {
            b'\r' | b'\n' => Some(core::mem::take(&mut self.line)).filter(|line| !line.is_empty()),
            _ => {
                if self.line.len() < LONGEST {
                    self.line.push(char::from(byte));
                }
                None
            }
        }
    }
}

fn obey(line: &str, machine: &mut Machine) {
    let mut words = line.split_ascii_whitespace();
    let answer = match (words.next(), words.next(), words.next()) {
        (Some("upgrade"), Some(name), None) => upgrade(name, machine),
        _ => Err(format!("no such command: {:?}; there is: upgrade NAME", line)),
    };
    if let Err(why) = answer {
        log::warn!("{why}");
    }
}

fn upgrade(name: &str, machine: &mut Machine) -> Result<(), String> {
    let image = match modules::find(name) {
        Ok(Some(image)) => image,
        Ok(None) => return Err(format!("no module {name:?} was kept: name it in upgrade.images of baton.toml")),
        Err(error) => return Err(format!("module {name:?} can't be mapped: {error}")),
    };
    let told = |error: ApiError| format!("no upgrade to {name}: {error}");
    log::info!("upgrade to module {name}, from the console");
    let id = machine.begin_upgrade(image.len() as u64, false).map_err(told)?;
    machine.upload(id, image).map_err(told)?;
    let _accepted = machine.finish_upload(id).map_err(told)?;
    machine.start_upgrade(id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut operator = Operator::new();
        let mut lines = alloc::vec::Vec::new();
        for byte in b"\r\nupgrade a.img\r\n\nx".iter().chain(&[b'y'; 200]).chain(b"\n") {
            lines.extend(operator.take(*byte));
        }
        assert_eq!((lines[0].as_str(), lines.len(), lines[1].len()), ("upgrade a.img", 2, LONGEST));
    }
}
