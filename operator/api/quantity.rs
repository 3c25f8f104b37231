//! Kubernetes quantities: `500m` CPUs, `256Mi` bytes.

/// The value of a quantity in thousandths; the error says what would be valid.
pub fn milli(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no quantity; write a number with an optional suffix: 500m, 2, 64Mi, 1Gi, 2G");
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let scale: f64 = match suffix {
        "m" => 1.0,
        "" => 1e3,
        "k" => 1e6,
        "M" => 1e9,
        "G" => 1e12,
        "T" => 1e15,
        "Ki" => 1024.0 * 1e3,
        "Mi" => 1024.0 * 1024.0 * 1e3,
        "Gi" => 1024.0 * 1024.0 * 1024.0 * 1e3,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0 * 1e3,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let value = number * scale;
    if value > 0.0 && value < 9e18 { Ok(value as i64) } else { Err(format!("{text:?} is out of range")) }
}

/// The value of a quantity in whole units, rounded up: bytes, processes.
pub fn whole(text: &str) -> Result<i64, String> {
    milli(text).map(|milli| (milli as u64).div_ceil(1000) as i64)
}

/// A number of bytes for people, with two or more digits: `1.2Gi`, `140Mi`, `512`.
pub fn shown(bytes: u64) -> String {
    let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let Some((unit, bits)) = units.into_iter().find(|(_, bits)| bytes >> bits > 0) else { return bytes.to_string() };
    let (whole, rest) = (bytes >> bits, bytes & ((1 << bits) - 1));
    match (rest * 10) >> bits {
        tenth if whole < 10 && tenth > 0 => format!("{whole}.{tenth}{unit}"),
        _ => format!("{whole}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        assert_eq!(milli("500m"), Ok(500));
        assert_eq!(milli("0.1"), Ok(100));
        assert_eq!(milli("2"), Ok(2000));
        assert_eq!(whole("64Mi"), Ok(64 << 20));
        assert_eq!(whole("1.5Gi"), Ok(3 << 29));
        assert_eq!(whole("1G"), Ok(1_000_000_000));
        assert_eq!(whole("1500m"), Ok(2));
        let shown = [0, 1023, 1024, 3 << 29, 140 << 20, u64::MAX].map(shown);
        assert_eq!(shown, ["0", "1023", "1Ki", "1.5Gi", "140Mi", "16777215Ti"]);
        for wrong in ["", "a", "1 Gi", "10b", "-1", "0", "1.2.3"] {
            assert!(milli(wrong).is_err(), "{wrong}");
        }
    }
}
