//! The colours of the screen.

use ratatui::style::{Color, Style};

use super::held_back::HeldBack;

/// Whether there are colours (<https://no-color.org>).
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette(pub(super) bool);

impl Palette {
    pub(super) fn coloured(self, color: Color) -> Style {
        if self.0 {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    }

    pub(super) fn of(self, held_back: HeldBack) -> Style {
        match held_back {
            HeldBack::Nothing => Style::new(),
            HeldBack::Handshake | HeldBack::CutOff | HeldBack::Loss => self.coloured(Color::Red),
            _ => self.coloured(Color::Yellow),
        }
    }
}
