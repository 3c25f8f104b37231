//! Memory of an instance: which declarations fit together, and the size of `/dev/shm`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::invalid::Invalid;
use super::quantity;
use super::resources::Resources;

const MIB: i64 = 1 << 20;
/// Least memory limit of an instance: the supervisor, PostgreSQL's own processes and a few sessions.
const LEAST: i64 = 128 * MIB;
/// Least `/dev/shm`: PostgreSQL keeps statistics and messages between processes in it.
const LEAST_SHM: i64 = 16 * MIB;
/// PostgreSQL's own `shared_buffers`.
const SHARED_BUFFERS: &str = "128MB";
/// The default `/dev/shm` is not smaller than this, unless the memory limit is.
const USUAL_SHM: i64 = 1024 * MIB;

/// Every problem with the declared memory; `shared_buffers` is the value in `spec.parameters`.
pub fn problems(resources: &Resources, shm_size: Option<&Quantity>, shared_buffers: Option<&str>) -> Vec<Invalid> {
    let mut problems = resources.problems("spec.resources");
    let (limit, shown) = (resources.memory(), resources.limits.get("memory").map_or("", |limit| &limit.0));
    let mut say = |path: &str, message: String| problems.push(Invalid::new(path, message));
    if limit.is_some_and(|limit| limit < LEAST) {
        say("spec.resources.limits.memory", format!("is {shown}, must be at least 128Mi for PostgreSQL"));
    } else if let Some(limit) = limit
        && bytes(shared_buffers.unwrap_or(SHARED_BUFFERS)).is_some_and(|buffers| buffers > limit / 4 * 3)
    {
        let rule = "shared_buffers must be at most three quarters of the memory limit, for sessions need memory too";
        match shared_buffers {
            Some(buffers) => say(
                "spec.parameters[shared_buffers]",
                format!("{buffers} does not fit spec.resources.limits.memory {shown}: {rule}"),
            ),
            None => say(
                "spec.resources.limits.memory",
                format!("{shown} is too small for PostgreSQL's own shared_buffers of {SHARED_BUFFERS}: {rule}"),
            ),
        }
    }
    match shm_size.map(|size| (&size.0, quantity::whole(&size.0))) {
        Some((_, Err(message))) => say("spec.shmSize", message),
        Some((size, Ok(bytes))) if bytes < LEAST_SHM => {
            say("spec.shmSize", format!("is {size}, must be at least 16Mi"))
        }
        Some((size, Ok(bytes))) if limit.is_some_and(|limit| bytes > limit) => say(
            "spec.shmSize",
            format!(
                "{size} does not fit spec.resources.limits.memory {shown}: what is in /dev/shm counts to the limit"
            ),
        ),
        _ => {}
    }
    problems
}

/// The size of `/dev/shm` if none is declared, in bytes: half of the memory, as Linux does it, and at least 1 GiB. It is
/// no more than a limit, because Linux takes only what is in use.
pub fn default_shm(limit: Option<i64>, host: i64) -> i64 {
    (limit.unwrap_or(host) / 2).max(USUAL_SHM).min(limit.unwrap_or(i64::MAX))
}

/// The bytes of a memory setting of PostgreSQL whose unit is a page of 8 kB: `16384`, `128MB`, `0.5GB`. `None` if
/// PostgreSQL will refuse it.
fn bytes(setting: &str) -> Option<i64> {
    let setting = setting.trim();
    let (number, unit) = setting.split_at(setting.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(setting.len()));
    let scale = match unit {
        "" => 8192.0,
        "B" => 1.0,
        "kB" => 1024.0,
        "MB" => 1024.0 * 1024.0,
        "GB" => 1024.0 * 1024.0 * 1024.0,
        "TB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some((number.trim().parse::<f64>().ok()? * scale) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: i64 = 1024 * MIB;

    #[test]
    fn memory_settings_are_read_as_postgresql_reads_them() {
        let read = ["16384", "128MB", " 1 GB", "0.5GB", "4096kB", "1TB", "64mb", "x"].map(bytes);
        let mib = read.map(|bytes| bytes.map(|bytes| bytes / MIB));
        assert_eq!(mib, [Some(128), Some(128), Some(1024), Some(512), Some(4), Some(1 << 20), None, None]);
    }

    /// Regression 91: `/dev/shm` had 256 MiB, whatever memory an instance had, and no field changed it. A parallel hash
    /// join failed with "could not resize shared memory segment: No space left on device".
    #[test]
    fn shared_memory_follows_the_memory_and_never_exceeds_the_limit() {
        let unlimited = [1, 8, 64].map(|host| default_shm(None, host * GIB) / GIB);
        assert_eq!(unlimited, [1, 4, 32]);
        let limited = [GIB / 2, GIB, 2 * GIB, 16 * GIB].map(|limit| default_shm(Some(limit), 64 * GIB));
        assert_eq!(limited, [GIB / 2, GIB, GIB, 8 * GIB]);
    }
}
