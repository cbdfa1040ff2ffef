//! A headless Chromium, and what is in the pictures that it takes.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::wait_for;

/// What Chromium is called, here and there.
const NAMES: [&str; 5] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
];

/// What a reader's system prefers, by Blink's numbers.
#[derive(Clone, Copy, Debug)]
pub enum Scheme {
    /// Light text on dark ground.
    Dark = 0,
    /// Dark text on light ground.
    Light = 1,
}

/// `$TAILWATER_CHROMIUM`, or one in the path; says loudly when there is none.
pub fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("TAILWATER_CHROMIUM") {
        return Some(named.into());
    }
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let places = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = places.into_iter().find(|path| path.is_file());
    if found.is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: there is no Chromium to look at pages with (set TAILWATER_CHROMIUM)"
        );
    }
    found
}

/// Takes a picture of the top of a page, so many pixels wide and high.
pub fn look(chromium: &Path, page: &Path, scheme: Scheme, (width, height): (u32, u32), into: &Path) -> Picture {
    let profile = tempfile::tempdir().unwrap();
    let _ = std::fs::remove_file(into);
    let mut child = Command::new(chromium)
        // The sandbox wants a user that is not root, and gets nothing but our own page to guard against.
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .args([
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
            "--host-resolver-rules=MAP * ~NOTFOUND",
        ])
        .arg(format!("--blink-settings=preferredColorScheme={}", scheme as u32))
        .arg(format!("--window-size={width},{height}"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--screenshot={}", into.display()))
        .arg(format!("file://{}", page.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Chromium starts");
    let status = wait_for("a picture by Chromium", || {
        child.try_wait().expect("the process is ours")
    });
    assert!(status.success(), "{status}");
    Picture::read(&std::fs::read(into).unwrap())
}

/// What a picture shows, as far as it is asked.
#[derive(Debug)]
pub struct Picture {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Red, green and blue of the pixel in the upper left corner.
    pub corner: [u8; 3],
    /// Lines of pixels that differ from all others, as the file has them: a blank page has two or three.
    pub lines: usize,
}

impl Picture {
    /// Reads a PNG of 8 bits a channel without a palette.
    fn read(png: &[u8]) -> Picture {
        let mut rest = png.strip_prefix(b"\x89PNG\r\n\x1a\n").expect("a PNG");
        let (mut header, mut packed) = (None, Vec::new());
        while let Some((head, behind)) = rest.split_first_chunk::<8>() {
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let (data, behind) = behind.split_at(length);
            match &head[4..] {
                b"IHDR" => header = Some(data),
                b"IDAT" => packed.extend_from_slice(data),
                _ => {}
            }
            // The checksum.
            rest = &behind[4..];
        }
        let header = header.expect("a header");
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let (width, height) = (number(0), number(4));
        let channels = match (header[8], header[9], header[12]) {
            (8, 2, 0) => 3,
            (8, 6, 0) => 4,
            other => panic!("depth, colours and interlacing {other:?}"),
        };
        let mut data = Vec::new();
        flate2::read::ZlibDecoder::new(&packed[..])
            .read_to_end(&mut data)
            .expect("packed lines");
        let line = 1 + channels * width as usize;
        assert_eq!(data.len(), line * height as usize);
        Picture {
            width,
            height,
            // Whatever the filter of a line, the first pixel of the first one has no neighbours to differ from.
            corner: [data[1], data[2], data[3]],
            lines: data.chunks(line).collect::<HashSet<_>>().len(),
        }
    }
}

#[test]
fn pictures_are_read() {
    // Two lines of three pixels, the second one as the first.
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    packed
        .write_all(&[1, 9, 8, 7, 0, 0, 0, 1, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        .unwrap();
    let packed = packed.finish().unwrap();
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        png.extend((data.len() as u32).to_be_bytes());
        png.extend([kind, data, &[0; 4]].concat());
    };
    chunk(b"IHDR", &[0, 0, 0, 3, 0, 0, 0, 2, 8, 2, 0, 0, 0]);
    chunk(b"IDAT", &packed[..5]);
    chunk(b"IDAT", &packed[5..]);
    chunk(b"IEND", &[]);
    let Picture {
        width,
        height,
        corner,
        lines,
    } = Picture::read(&png);
    assert_eq!((width, height, corner, lines), (3, 2, [9, 8, 7], 2));
}
