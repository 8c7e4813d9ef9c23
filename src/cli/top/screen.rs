//! The terminal, as long as something is shown on it. Whatever ends this gives it back as it was.

use std::io::{self, BufWriter, Stdout, Write, stdout};

use crossterm::{
    cursor, execute, queue,
    style::{Attribute, Color, Print, SetAttribute, SetForegroundColor},
    terminal::{self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen},
};

use super::frame::{Frame, Style};

pub(super) struct Screen {
    out: BufWriter<Stdout>,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        // From here on its drop undoes it.
        let mut screen = Self { out: BufWriter::new(stdout()) };
        execute!(screen.out, EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    pub(super) fn rows(&self) -> u16 {
        terminal::size().map_or(24, |(_, rows)| rows).max(1)
    }

    /// Line over line, so that nothing flickers.
    pub(super) fn draw(&mut self, frame: &Frame) -> io::Result<()> {
        let columns = terminal::size().map_or(80, |(columns, _)| usize::from(columns));
        for (row, (style, line)) in frame.lines.iter().enumerate() {
            let line: String = line.chars().filter(|c| !c.is_control()).take(columns).collect();
            queue!(self.out, cursor::MoveTo(0, row as u16))?;
            match style {
                Style::Plain => {}
                Style::Head => queue!(self.out, SetAttribute(Attribute::Bold))?,
                Style::Faint => queue!(self.out, SetAttribute(Attribute::Dim))?,
                Style::Alarm => queue!(self.out, SetForegroundColor(Color::Red))?,
            }
            queue!(self.out, Print(line), SetAttribute(Attribute::Reset))?;
            queue!(self.out, SetForegroundColor(Color::Reset), Clear(ClearType::UntilNewLine))?;
        }
        queue!(self.out, Clear(ClearType::FromCursorDown))?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(self.out, LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}
