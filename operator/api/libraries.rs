//! The libraries by which PostgreSQL sorts text: the C library and ICU of an image. Plain data.

use serde::{Deserialize, Serialize};

/// The command that prints them, for [`Libraries::read`]. PostgreSQL itself needs `sh`, so each of its images has one.
pub const ASK: [&str; 3] = [
    "sh",
    "-c",
    "{ getconf GNU_LIBC_VERSION; ldd --version; } 2>&1 | head -n 8; \
     ls /lib /lib64 /usr/lib /usr/lib64 /usr/lib/*-linux-* /usr/local/lib 2>/dev/null | grep '^libicui18n' | sort -u | head -n 32",
];

/// The libraries of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Libraries {
    /// The C library, e.g. `glibc 2.36` or `musl 1.2.5`.
    pub libc: String,
    /// ICU, e.g. `ICU 72`; `None` if the image has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icu: Option<String>,
}

impl Libraries {
    /// From the output of [`ASK`]; `None` if it names no C library.
    pub fn read(output: &str) -> Option<Self> {
        let lines = || output.lines().map(str::trim);
        let version = |word: &str| word.starts_with(|first: char| first.is_ascii_digit()).then(|| word.to_owned());
        let glibc = || {
            let said = lines().find_map(|line| version(line.strip_prefix("glibc ")?));
            said.or_else(|| lines().find_map(|line| version(line.strip_prefix("ldd (")?.split(' ').next_back()?)))
        };
        let musl = || lines().find_map(|line| version(line.strip_prefix("Version ")?));
        let libc = if lines().any(|line| line.starts_with("musl libc")) {
            format!("musl {}", musl()?)
        } else {
            format!("glibc {}", glibc()?)
        };
        // libicui18n.so.72 and libicui18n.so.72.1 are one library; its data changes with the first number.
        let major = |line: &str| version(line.strip_prefix("libicui18n.so.")?.split('.').next()?);
        let mut icu: Vec<_> = lines().filter_map(major).collect();
        icu.dedup();
        Some(Self { libc, icu: (!icu.is_empty()).then(|| format!("ICU {}", icu.join(" and "))) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Option<String> {
        let Libraries { libc, icu } = Libraries::read(output)?;
        Some([Some(libc), icu].into_iter().flatten().collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn the_libraries_are_read_from_what_the_programs_of_an_image_print() {
        let debian = "glibc 2.36\nldd (Debian GLIBC 2.36-9+deb12u14) 2.36\nCopyright (C) 2022\n\
                      libicui18n.so.72\nlibicui18n.so.72.1\n";
        assert_eq!(read(debian).as_deref(), Some("glibc 2.36, ICU 72"));
        let without_getconf = "sh: 1: getconf: not found\nldd (GNU libc) 2.34\n";
        assert_eq!(read(without_getconf).as_deref(), Some("glibc 2.34"));
        let alpine = "getconf: GNU_LIBC_VERSION: unknown variable\nmusl libc (x86_64)\nVersion 1.2.5\n\
                      Dynamic Program Loader\nlibicui18n.so.76\n";
        assert_eq!(read(alpine).as_deref(), Some("musl 1.2.5, ICU 76"));
        for nothing in ["", "sh: ldd: not found", "musl libc (x86_64)", "glibc\n", "Version 3"] {
            assert_eq!(read(nothing), None, "{nothing:?}");
        }
    }
}
