//! Whose entries are whose: the first part of every name in a tier.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Who shares entries with whom; one never sees another's. A value of this type is one harmless path component.
///
/// ```
/// use larder_ops::tiers::Tenant;
///
/// assert_eq!(Tenant::default().to_string(), "local");
/// assert!("team-a".parse::<Tenant>().is_ok());
/// for bad in ["", ".", "..", "a/b", "a\0b", ".hidden"] {
///     assert!(bad.parse::<Tenant>().is_err());
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tenant(String);

/// A name that no tenant may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no tenant: it must be letters, digits, `-`, `_` and dots, 64 at most, and not start with a dot")]
pub struct TenantError(String);

impl Default for Tenant {
    fn default() -> Self {
        Self("local".to_owned())
    }
}

impl FromStr for Tenant {
    type Err = TenantError;

    fn from_str(name: &str) -> Result<Self, TenantError> {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_good = !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.chars().all(is_fine);
        if is_good {
            Ok(Self(name.to_owned()))
        } else {
            Err(TenantError(name.chars().take(80).collect::<String>().escape_debug().to_string()))
        }
    }
}

impl TryFrom<String> for Tenant {
    type Error = TenantError;

    fn try_from(name: String) -> Result<Self, TenantError> {
        name.parse()
    }
}

impl From<Tenant> for String {
    fn from(tenant: Tenant) -> Self {
        tenant.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
