//! How much memory this process and its children may use: the machine's, or what its control groups leave of that.

use std::path::Path;

/// Returns the memory in bytes; `None` where the system does not tell.
pub fn memory_bytes() -> Option<u64> {
    let machine = machine(&fs_err::read_to_string("/proc/meminfo").ok()?)?;
    let groups = fs_err::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = limits(&groups, |path| fs_err::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok()).min();
    Some(limit.map_or(machine, |limit| limit.min(machine)))
}

/// Reads `MemTotal:  24000000 kB`.
fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Returns the limits of the groups that a process is in, and of those around them. In a container the path that the
/// kernel names is often not there, but the group itself is at the top.
fn limits(groups: &str, read: impl Fn(&str) -> Option<String>) -> impl Iterator<Item = u64> {
    // `0::/path` is of version 2, `7:memory:/path` of version 1.
    let places = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        match rest.split_once(':')? {
            ("", path) => Some((path, "", "memory.max")),
            (controllers, path) => controllers.split(',').any(|controller| controller == "memory").then_some((
                path,
                "memory",
                "memory.limit_in_bytes",
            )),
        }
    });
    let files = places.flat_map(|(path, top, file)| {
        let around = Path::new(path.trim_start_matches('/')).ancestors();
        around.map(move |dir| Path::new(top).join(dir).join(file).display().to_string())
    });
    // Anything but a number, `max`, is no limit.
    files.filter_map(move |file| read(&file)?.trim().parse().ok()).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells_in_kilobytes() {
        assert_eq!(machine("MemTotal:        2000 kB\nMemFree:          10 kB\n"), Some(2_048_000));
        assert_eq!(machine(""), None);
    }

    #[test]
    fn the_tightest_group_counts_of_either_version() {
        let read = |path: &str| {
            let text = match path {
                "a/b/memory.max" => "max\n",
                "a/memory.max" => "3000\n",
                "memory/memory.limit_in_bytes" => "2000\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let found = |groups| limits(groups, read).collect::<Vec<_>>();
        assert_eq!(found("0::/a/b\n"), [3000]);
        assert_eq!(found("3:cpu,cpuacct:/x\n4:memory:/docker/1\n"), [2000]);
        assert_eq!(found("0::/\n"), Vec::<u64>::new());
    }
}
