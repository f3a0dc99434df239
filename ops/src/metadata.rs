//! Where a package came from, written into its DESCRIPTION: renv, sessioninfo and pak read it there.

use std::collections::BTreeMap;

/// Returns the DESCRIPTION `bytes` with `fields` in it: those it has already are replaced, the others follow at
/// the end. All other bytes stay as they are, whatever their encoding.
pub fn with_fields(bytes: &[u8], fields: &BTreeMap<String, String>) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len() + 64 * fields.len());
    let mut is_replaced = false;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            is_replaced = std::str::from_utf8(name).is_ok_and(|name| fields.contains_key(name));
        }
        // A blank line would end the record, and hide the fields that follow.
        if !is_replaced && !line.trim_ascii().is_empty() {
            result.extend_from_slice(line);
        }
    }
    if !result.is_empty() && !result.ends_with(b"\n") {
        result.push(b'\n');
    }
    for (name, value) in fields.iter().filter(|(name, _)| is_field_name(name)) {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        result.extend_from_slice(format!("{name}: {value}\n").as_bytes());
    }
    result
}

fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') && !name.starts_with('#')
}

/// R code that puts the fields of the file `fields` (DCF, one record) into `Meta/package.rds` of the installed
/// package in the working directory: a prebuilt package brings that file, and R reads it rather than DESCRIPTION.
pub const UPDATE_RDS: &str = r#"
fields <- read.dcf(Sys.getenv("LARDER_FIELDS"))[1, ]
file <- file.path("Meta", "package.rds")
info <- readRDS(file)
info$DESCRIPTION[names(fields)] <- fields
saveRDS(info, file)
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn fields_are_replaced_or_added_and_the_rest_stays() {
        let before = b"Package: demo\nRemoteType: old\n  continued\nAuthor: Ren\xe9\n\n";
        let after = with_fields(before, &fields(&[("RemoteType", "standard"), ("RemoteSha", "1.0")]));
        assert_eq!(after, b"Package: demo\nAuthor: Ren\xe9\nRemoteSha: 1.0\nRemoteType: standard\n");
    }

    #[test]
    fn a_value_cannot_smuggle_in_another_field() {
        let after = with_fields(b"Package: demo", &fields(&[("RemoteRef", "x\nDepends: evil"), ("A b\n", "y")]));
        assert_eq!(after, b"Package: demo\nRemoteRef: x Depends: evil\n");
    }
}
