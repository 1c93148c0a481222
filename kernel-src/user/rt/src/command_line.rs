//! The kernel's command line, as user programs read it.

use crate::call;
use abi::Info;

/// As much of the line as the kernel keeps. On the stack: a heap would cost a program its pages.
pub struct CommandLine {
    bytes: [u8; 1024],
    length: usize,
}

impl CommandLine {
    #[must_use]
    pub fn read() -> Self {
        let mut line = Self { bytes: [0; 1024], length: 0 };
        for (index, chunk) in (0..).zip(line.bytes.chunks_exact_mut(8)) {
            let Ok(word) = call::info(Info::CommandLine, index) else { break };
            chunk.copy_from_slice(&word.to_le_bytes());
            line.length += chunk.iter().take_while(|&&byte| byte != 0).count();
            if chunk.contains(&0) {
                break;
            }
        }
        line
    }

    /// The value of the last word `key=value`, if there is one.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        let line = str::from_utf8(&self.bytes[..self.length]).ok()?;
        let mut words = line.split_ascii_whitespace().filter_map(|word| word.split_once('='));
        words.rfind(|(name, _)| *name == key).map(|(_, value)| value)
    }
}
