//! Freezing, killing and limiting whole process trees: control groups where they can be written, signals elsewhere.

use crate::config::Freeze;
use crate::lambda::Error;
use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The prefix of control groups and directories; the owner's pid namespace and pid follow, so that a later run can clear
/// what a killed one left.
const NAME_PREFIX: &str = "local-lambda-";
/// How long a freeze may take to be complete, and how long a killed group may take to become empty.
const SETTLE_LIMIT: Duration = Duration::from_millis(500);
const SETTLE_STEP: Duration = Duration::from_micros(200);
/// The period of a CPU quota; the kernel's default.
const CPU_PERIOD_US: u32 = 100_000;

/// By which means processes are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreezerKind {
    /// cgroup v2, `cgroup.freeze`.
    CgroupV2,
    /// cgroup v1, `freezer.state`.
    CgroupV1,
    /// SIGSTOP and SIGCONT.
    Signals,
    /// Nothing is frozen.
    Off,
}

impl fmt::Display for FreezerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::CgroupV2 => "cgroup v2",
            Self::CgroupV1 => "cgroup v1",
            Self::Signals => "signals",
            Self::Off => "off",
        })
    }
}

enum Groups {
    V2(PathBuf),
    V1(PathBuf),
    None,
}

pub(crate) struct Freezer {
    groups: Groups,
    kind: FreezerKind,
    quota: Quota,
}

/// Where the CPU quota is kept.
#[derive(PartialEq)]
enum Quota {
    None,
    /// In the group that freezes.
    Same,
    /// In a group of another hierarchy.
    Separate(PathBuf),
}

impl Freezer {
    pub(crate) fn new(freeze: Freeze, cpu_quota: Option<f64>) -> Result<Self, Error> {
        clear_stale();
        let name = owned_name();
        let groups = match freeze {
            Freeze::CgroupV2 => v2_group(&name).ok_or(Error::NoFreezer(freeze))?,
            Freeze::CgroupV1 => v1_group(&name).ok_or(Error::NoFreezer(freeze))?,
            Freeze::Signals => Groups::None,
            Freeze::Auto | Freeze::Off => v2_group(&name)
                .or_else(|| v1_group(&name))
                .unwrap_or(Groups::None),
        };
        let kind = match (&groups, freeze) {
            (_, Freeze::Off) => FreezerKind::Off,
            (Groups::V2(_), _) => FreezerKind::CgroupV2,
            (Groups::V1(_), _) => FreezerKind::CgroupV1,
            (Groups::None, _) => FreezerKind::Signals,
        };
        let quota = cpu_quota.map_or(Quota::None, |cpus| limit_cpu(&groups, &name, cpus));
        Ok(Self {
            groups,
            kind,
            quota,
        })
    }

    pub(crate) fn kind(&self) -> FreezerKind {
        self.kind
    }

    pub(crate) fn limits_cpu(&self) -> bool {
        self.quota != Quota::None
    }

    /// The files that a new process writes `0` to before it execs, and so is a member from its first instruction on.
    pub(crate) fn entrances(&self, process: &str) -> std::io::Result<Vec<File>> {
        let mut files = Vec::new();
        if let Some(group) = self.group_of(process) {
            fs::create_dir_all(&group)?;
            files.push(open_for_writing(&group.join("cgroup.procs"))?);
        }
        if let Quota::Separate(group) = &self.quota {
            files.push(open_for_writing(&group.join("cgroup.procs"))?);
        }
        Ok(files)
    }

    /// Freezes the trees of these processes, and returns when they stand still.
    pub(crate) fn freeze(&self, pids: &[u32]) {
        match (&self.groups, self.kind) {
            (_, FreezerKind::Off) => {}
            (Groups::V2(group), _) => {
                write(&group.join("cgroup.freeze"), "1");
                settle(|| read(&group.join("cgroup.events")).contains("frozen 1"));
            }
            (Groups::V1(group), _) => {
                write(&group.join("freezer.state"), "FROZEN");
                settle(|| read(&group.join("freezer.state")).trim() == "FROZEN");
            }
            (Groups::None, _) => {
                // A process may fork while its siblings are being stopped, so until nothing moves any more.
                settle(|| {
                    let moving: Vec<_> = trees(pids)
                        .into_iter()
                        .filter(|pid| !is_stopped(*pid))
                        .collect();
                    let still = moving.is_empty();
                    signal_all(moving, Signal::STOP);
                    still
                });
            }
        }
    }

    pub(crate) fn thaw(&self, pids: &[u32]) {
        match (&self.groups, self.kind) {
            (_, FreezerKind::Off) => {}
            (Groups::V2(group), _) => write(&group.join("cgroup.freeze"), "0"),
            (Groups::V1(group), _) => write(&group.join("freezer.state"), "THAWED"),
            (Groups::None, _) => signal_all(trees(pids), Signal::CONT),
        }
    }

    /// Kills a process and everything it started.
    pub(crate) fn kill(&self, process: &str, pid: u32) {
        match self.group_of(process) {
            Some(group) => kill_group(&group, &self.groups),
            None => signal_all(trees(&[pid]), Signal::KILL),
        }
    }

    /// Kills whatever is left of all processes.
    pub(crate) fn kill_all(&self, pids: &[u32]) {
        match &self.groups {
            Groups::V2(group) | Groups::V1(group) => kill_group(group, &self.groups),
            Groups::None => signal_all(trees(pids), Signal::KILL),
        }
    }

    fn group_of(&self, process: &str) -> Option<PathBuf> {
        match &self.groups {
            Groups::V2(group) | Groups::V1(group) => Some(group.join(process)),
            Groups::None => None,
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        if let Groups::V1(group) = &self.groups {
            write(&group.join("freezer.state"), "THAWED");
        }
        if let Groups::V2(group) | Groups::V1(group) = &self.groups {
            kill_group(group, &self.groups);
            settle(|| remove_group(group));
        }
        if let Quota::Separate(group) = &self.quota {
            settle(|| remove_group(group));
        }
    }
}

/// A name for something that ends with this process.
pub(crate) fn owned_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{NAME_PREFIX}{}-{}-{}",
        pid_namespace(),
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

fn v2_group(name: &str) -> Option<Groups> {
    let mount = mounted("cgroup2", None)?;
    // Where the root of the hierarchy is not ours, a delegated subtree (systemd's user slices) may be.
    let own = read(Path::new("/proc/self/cgroup"))
        .lines()
        .find_map(|line| line.strip_prefix("0::/").map(|path| mount.join(path)));
    [Some(mount), own].into_iter().flatten().find_map(|parent| {
        let group = new_group(&parent, name)?;
        let usable = group.join("cgroup.freeze").exists()
            && open_for_writing(&parent.join("cgroup.procs")).is_ok();
        if usable {
            return Some(Groups::V2(group));
        }
        let _ = fs::remove_dir(&group);
        None
    })
}

fn v1_group(name: &str) -> Option<Groups> {
    new_group(&mounted("cgroup", Some("freezer"))?, name).map(Groups::V1)
}

fn new_group(parent: &Path, name: &str) -> Option<PathBuf> {
    let group = parent.join(name);
    fs::create_dir(&group).ok()?;
    Some(group)
}

/// Ends what emulators left in any hierarchy that were killed before they could do so themselves.
fn clear_stale() {
    let hierarchies = [
        mounted("cgroup2", None),
        mounted("cgroup", Some("freezer")),
        mounted("cgroup", Some("cpu")),
    ];
    let groups = hierarchies
        .into_iter()
        .flatten()
        .flat_map(|parent| subgroups(&parent));
    for group in groups.filter(|group| is_stale(group)) {
        write(&group.join("freezer.state"), "THAWED");
        write(&group.join("cgroup.kill"), "1");
        settle(|| {
            signal_all(members(&group), Signal::KILL);
            remove_group(&group)
        });
    }
}

/// Whether something of that name is left from an emulator that is gone. One in another pid namespace cannot be seen, so
/// what is its is left alone.
pub(crate) fn is_stale(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let owner = name
        .strip_prefix(NAME_PREFIX)
        .and_then(|rest| rest.strip_prefix(&pid_namespace()))
        .and_then(|rest| rest.strip_prefix('-')?.split('-').next());
    owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

/// The number of this process's pid namespace.
fn pid_namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let text = link.to_string_lossy();
    text.chars().filter(char::is_ascii_digit).collect()
}

/// Limits all processes together, in the freezing group if its hierarchy has the controller.
fn limit_cpu(groups: &Groups, name: &str, cpus: f64) -> Quota {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a quota is a small positive number"
    )]
    let quota_us = (cpus * f64::from(CPU_PERIOD_US)) as u64;
    if let Groups::V2(group) = groups
        && fs::write(group.join("cpu.max"), format!("{quota_us} {CPU_PERIOD_US}")).is_ok()
    {
        return Quota::Same;
    }
    let separate = mounted("cgroup", Some("cpu")).and_then(|parent| new_group(&parent, name));
    match separate {
        Some(group) if fs::write(group.join("cpu.cfs_quota_us"), quota_us.to_string()).is_ok() => {
            Quota::Separate(group)
        }
        _ => Quota::None,
    }
}

/// The mount point of a hierarchy, from `/proc/mounts` (device, directory, type, options).
fn mounted(kind: &str, controller: Option<&str>) -> Option<PathBuf> {
    read(Path::new("/proc/mounts")).lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, directory, found, options, ..] = fields.as_slice() else {
            return None;
        };
        let fits = *found == kind
            && controller
                .is_none_or(|controller| options.split(',').any(|option| option == controller));
        fits.then(|| PathBuf::from(directory))
    })
}

fn kill_group(group: &Path, groups: &Groups) {
    if matches!(groups, Groups::V2(_)) && fs::write(group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    settle(|| {
        let members = members(group);
        let empty = members.is_empty();
        signal_all(members, Signal::KILL);
        empty
    });
}

fn members(group: &Path) -> Vec<u32> {
    let mut pids: Vec<u32> = read(&group.join("cgroup.procs"))
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| !is_zombie(*pid))
        .collect();
    for child in subgroups(group) {
        pids.extend(members(&child));
    }
    pids
}

fn remove_group(group: &Path) -> bool {
    for child in subgroups(group) {
        remove_group(&child);
    }
    let _ = fs::remove_dir(group);
    !group.exists()
}

fn subgroups(group: &Path) -> Vec<PathBuf> {
    fs::read_dir(group)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// The processes, their descendants and the members of their process groups.
fn trees(roots: &[u32]) -> Vec<u32> {
    let mut all: Vec<(u32, u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            && let Some((_, parent, group)) = stat(pid)
        {
            all.push((pid, parent, group));
        }
    }
    // Each root leads a group of its own; another process that got the number of a dead one most likely does not.
    let mut found: Vec<u32> = all
        .iter()
        .filter(|(pid, _, group)| roots.contains(pid) && pid == group)
        .map(|(pid, ..)| *pid)
        .collect();
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|(pid, parent, group)| {
                !found.contains(pid) && (found.contains(parent) || roots.contains(group))
            })
            .map(|(pid, ..)| *pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// State, parent and process group out of `/proc/<pid>/stat`.
fn stat(pid: u32) -> Option<(char, u32, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((
        state,
        fields.next()?.parse().ok()?,
        fields.next()?.parse().ok()?,
    ))
}

fn is_stopped(pid: u32) -> bool {
    stat(pid).is_none_or(|(state, ..)| matches!(state, 'T' | 't' | 'Z' | 'X'))
}

fn is_zombie(pid: u32) -> bool {
    stat(pid).is_none_or(|(state, ..)| matches!(state, 'Z' | 'X'))
}

fn signal_all(pids: Vec<u32>, which: Signal) {
    for pid in pids {
        signal(pid, which);
    }
}

/// A process that is gone already is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn settle(mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + SETTLE_LIMIT;
    while !done() && Instant::now() < limit {
        std::thread::sleep(SETTLE_STEP);
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn write(path: &Path, value: &str) {
    let _ = fs::write(path, value);
}

fn open_for_writing(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(namespace: &str, pid: u32) -> PathBuf {
        PathBuf::from(format!("/somewhere/{NAME_PREFIX}{namespace}-{pid}-0"))
    }

    #[test]
    fn only_what_an_emulator_of_this_pid_namespace_left_is_stale() {
        let (gone, here) = (u32::MAX, std::process::id());
        assert!(is_stale(&named(&pid_namespace(), gone)));
        assert!(!is_stale(&named(&pid_namespace(), here)));
        assert!(!is_stale(&named("1", gone)));
        assert!(!is_stale(Path::new(&owned_name())));
    }
}
