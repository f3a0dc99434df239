//! Whether a store can be written, found out without writing.

use std::io;

use super::Store;
use crate::trouble::refusal;

impl Store {
    /// Says why nothing can be stored: the store or a directory in it that every build needs is not to be written by
    /// this user. A store that is not there yet is to be made.
    pub fn refusal(&self) -> Option<io::Error> {
        let parts = [".staging", ".locks", "blobs", "logs", &self.platform];
        // What is missing is made in the one above, which comes first.
        refusal(&self.root).or_else(|| parts.iter().find_map(|part| refusal(&self.root.join(part))))
    }
}
