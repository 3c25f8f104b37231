//! What comes back, and what a hostile archive cannot do.

use std::os::unix::fs::MetadataExt as _;

use tar::{Builder, Header};

use super::*;
use crate::supervisor::porter::pack::pack;

/// Everything below a folder, a line each.
fn listed(root: &Path) -> String {
    let (mut left, mut lines) = (vec![root.to_owned()], Vec::new());
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let what = match metadata.file_type() {
            kind if kind.is_dir() => {
                left.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
                "/".to_owned()
            }
            kind if kind.is_symlink() => format!(" -> {}", path.read_link().unwrap().display()),
            _ => format!(" {} bytes, {} names", metadata.len(), metadata.nlink()),
        };
        lines.push(format!("{name}{what} {:o} {}\n", metadata.mode() & 0o7777, metadata.mtime()));
    }
    lines.sort();
    lines.concat()
}

#[test]
fn everything_comes_back_with_modes_times_links_and_long_names() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (from.path(), to.path());
    let long = "d".repeat(120);
    fs::create_dir_all(from.join(&long).join("e".repeat(120))).unwrap();
    fs::write(from.join(&long).join("e".repeat(120)).join("f"), "deep").unwrap();
    fs::write(from.join("empty"), "").unwrap();
    fs::write(from.join("large"), vec![7; 3 << 20]).unwrap();
    fs::hard_link(from.join("large"), from.join("same")).unwrap();
    fs::set_permissions(from.join("large"), Permissions::from_mode(0o4750)).unwrap();
    for (target, name) in [("/etc/passwd", "out"), ("../..//up/", "up"), ("x".repeat(200).as_str(), "far")] {
        std::os::unix::fs::symlink(target, from.join(name)).unwrap();
    }
    let odd = std::ffi::OsStr::from_bytes(b"\xff odd\n");
    fs::write(from.join(odd), "odd").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    changed_at(&from.join("empty"), 1).unwrap();
    changed_at(&from.join(&long), 1_000).unwrap();
    changed_at(from, 2_000).unwrap();
    fs::set_permissions(from, Permissions::from_mode(0o750)).unwrap();
    let mut archive = Vec::new();
    let tally = pack(from, &mut archive).unwrap();
    assert_eq!((tally.entries, tally.left_out), (11, 1));
    assert_eq!(unpack(to, archive.as_slice()).unwrap(), 11);
    fs::remove_file(from.join("socket")).unwrap();
    changed_at(from, 2_000).unwrap();
    assert_eq!(listed(to), listed(from));
    assert_eq!(fs::read(to.join("same")).unwrap(), vec![7; 3 << 20]);
}

/// An archive with these entries: type, name, target.
fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, target) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_mtime(1);
        header.set_uid(nix::unistd::getuid().as_raw().into());
        header.set_gid(nix::unistd::getgid().as_raw().into());
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_hostile_archive_gets_nothing_outside_of_the_volume() {
    use EntryType::{Block, Directory, Fifo, Link, Regular, Symlink};
    let cases: &[&[(EntryType, &str, &str)]] = &[
        &[(Regular, "../out", "")],
        &[(Regular, "a/../../out", "")],
        &[(Regular, "/out", "")],
        &[(Symlink, "way", ".."), (Regular, "way/out", "")],
        &[(Symlink, "way", "/"), (Directory, "way/out", "")],
        &[(Symlink, "way", ".."), (Symlink, "way/out", "x")],
        &[(Symlink, "file", "../out"), (Regular, "file", "")],
        &[(Symlink, "way", ".."), (Link, "mine", "way/secret")],
        &[(Link, "mine", "../secret")],
        &[(Link, "mine", "/etc/passwd")],
        &[(Symlink, "there", "../secret"), (Link, "mine", "there")],
        &[(Symlink, "there", "../folder"), (Directory, "there", "")],
        &[(Regular, ".", "")],
        &[(Regular, ".evenkeel-restore", "")],
        &[(Regular, "no/such/file", "")],
        &[(Regular, "twice", ""), (Regular, "twice", "")],
        &[(Block, "disk", "")],
        &[(Fifo, "pipe", "")],
    ];
    let mut told = String::new();
    for case in cases {
        let around = tempfile::tempdir().unwrap();
        let volume = around.path().join("volume");
        fs::create_dir(&volume).unwrap();
        fs::create_dir(around.path().join("folder")).unwrap();
        fs::write(around.path().join("secret"), "secret").unwrap();
        let before = listed(&around.path().join("folder")) + &fs::read_to_string(around.path().join("secret")).unwrap();
        let error = unpack(&volume, archive(case).as_slice()).unwrap_err();
        told += &format!("{}\n", error.to_string().replace(&volume.display().to_string(), "VOLUME"));
        let after = listed(&around.path().join("folder")) + &fs::read_to_string(around.path().join("secret")).unwrap();
        assert_eq!((before, around.path().read_dir().unwrap().count()), (after, 3), "{case:?}");
        assert_eq!(around.path().join("secret").metadata().unwrap().nlink(), 1, "{case:?}");
    }
    expect_test::expect![[r#"
        the archive is none of a volume: ../out leads out of the volume
        the archive is none of a volume: a/../../out leads out of the volume
        the archive is none of a volume: /out leads out of the volume
        the archive is none of a volume: way/out is in something that is no directory of the archive
        the archive is none of a volume: way/out is in something that is no directory of the archive
        the archive is none of a volume: way/out is in something that is no directory of the archive
        VOLUME/file: File exists (os error 17)
        the archive is none of a volume: way/secret is in something that is no directory of the archive
        the archive is none of a volume: ../secret leads out of the volume
        the archive is none of a volume: /etc/passwd leads out of the volume
        the archive is none of a volume: mine is a link to something that is no file of the archive
        VOLUME/there: File exists (os error 17)
        the archive is none of a volume: . is the volume itself, and no directory
        the archive is none of a volume: .evenkeel-restore is a name of Evenkeel's
        the archive is none of a volume: no/such/file is in something that is no directory of the archive
        VOLUME/twice: File exists (os error 17)
        the archive is none of a volume: disk is neither a file nor a directory nor a link
        the archive is none of a volume: pipe is neither a file nor a directory nor a link
    "#]]
    .assert_eq(&told);
}

#[test]
fn an_archive_that_is_cut_off_is_not_taken_for_whole() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), vec![1; 4000]).unwrap();
    let mut whole = Vec::new();
    pack(from.path(), &mut whole).unwrap();
    for length in [700, 1100, 2000, 5000] {
        let to = tempfile::tempdir().unwrap();
        assert!(unpack(to.path(), &whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_volume_that_is_half_restored_is_not_packed() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join(MARKER), "x").unwrap();
    let error = pack(from.path(), io::sink()).unwrap_err();
    assert_eq!(error.to_string(), "the volume has the file .evenkeel-restore: a restore into it has not ended");
}
