//! The programs that PostgreSQL runs for each WAL file: they ask the supervisor, wait for the answer, and end with it.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

/// The socket that the server's user may connect to.
pub const SOCKET: &str = "/run/evenkeel/wal.sock";

/// The exit code after which PostgreSQL's archiver ends without having counted a failure, and a recovery fails: the supervisor
/// is gone, or the server is being stopped. (Any code above 125.)
pub const NOT_NOW: u8 = 126;
/// `restore_command`.
pub const RESTORE_COMMAND: &str = "/evenkeel/evenkeel wal-fetch %f %p";
/// The exit code of a recovery's command when the archive does not have the file.
pub const NOT_THERE: u8 = 1;

/// `archive_command`: waits until the file is in the archive, or need not be.
pub fn push(file: &str) -> ExitCode {
    ask(&format!("push {file}")).map_or(ExitCode::from(NOT_NOW), |(code, _)| ExitCode::from(code))
}

/// `restore_command`: writes the file there, with the rights of the server's user.
pub fn fetch(file: &str, to: &str) -> ExitCode {
    let fetched = ask(&format!("fetch {file}")).and_then(|(code, content)| {
        if code == 0 {
            write(to, content)?;
        }
        Ok(code)
    });
    fetched.map_or(ExitCode::from(NOT_NOW), ExitCode::from)
}

/// The exit code, and what follows it: `CODE LENGTH` in a line, and so many bytes.
fn ask(question: &str) -> io::Result<(u8, io::Take<BufReader<UnixStream>>)> {
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    let (mut answer, mut stream) = (String::new(), BufReader::new(stream));
    stream.read_line(&mut answer)?;
    let mut words = answer.trim_end().split(' ');
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    let (Some(code), Some(length)) = (number(), number()) else { return Err(io::ErrorKind::InvalidData.into()) };
    let code = u8::try_from(code).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((code, stream.take(length)))
}

/// A file that is there in part would be taken for a whole one.
fn write(to: &str, mut content: io::Take<BufReader<UnixStream>>) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(to)?;
    io::copy(&mut content, &mut file)?;
    if content.limit() > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.sync_data()
}
