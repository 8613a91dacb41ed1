//! `larder top`: a running server, live in a terminal.
//!
//! One thread asks the server for its [`Overview`] every few seconds, one reads keys; both tell the main
//! thread, which alone draws. [`rates`] makes rates of counters, [`view`] draws them: neither knows a
//! terminal or a clock, so a frame is a function of what was told.

mod rates;
mod view;
mod words;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use larder_server::overview::Overview;
use ratatui::DefaultTerminal;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::widgets::Widget;

use self::rates::Rates;
use self::view::{Palette, View};
use self::words::{Typed, Words};
use crate::Outcome;
use crate::ctl::Client;
use crate::terminal::{say, tell};

pub(crate) use self::words::command;

/// A frame on something that has no size.
const PAGE: Rect = Rect { x: 0, y: 0, width: 80, height: 24 };

/// Runs `larder top` with these words.
pub(crate) fn run(words: &[OsString]) -> anyhow::Result<Outcome> {
    match Words::read(words) {
        Ok(Words::Help(text)) => say(&text),
        Ok(Words::Show(typed)) if typed.once => once(&typed),
        Ok(Words::Show(typed)) => {
            if !io::stdout().is_terminal() {
                tell("error", &["stdout is no terminal; --once prints one frame".to_owned()]);
                return Ok(Outcome::Usage);
            }
            let palette = Palette::of_environment();
            let mut terminal = ratatui::try_init()?;
            let ended = live(&mut terminal, &typed, palette);
            ratatui::try_restore()?;
            ended
        }
        Err(problem) => {
            tell("error", &[problem]);
            Ok(Outcome::Usage)
        }
    }
}

/// Prints one frame. Two answers make it, for rates need two.
fn once(typed: &Typed) -> anyhow::Result<Outcome> {
    let client = client(typed);
    let mut rates = Rates::default();
    rates.add(ask(&client)?);
    thread::sleep(typed.interval);
    rates.add(ask(&client)?);
    let view = View { url: &typed.url, rates: &rates, trouble: None, palette: Palette::Plain };
    let size = ratatui::crossterm::terminal::size().ok().filter(|_| io::stdout().is_terminal());
    let area = size.map_or(PAGE, |(width, height)| Rect { x: 0, y: 0, width, height });
    say(&text(&view, area))
}

/// A frame as text, without the blanks at the ends of lines.
fn text(view: &View<'_>, area: Rect) -> String {
    let mut buffer = Buffer::empty(area);
    view.render(area, &mut buffer);
    let row = |y| (area.left()..area.right()).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    let rows: Vec<String> = (area.top()..area.bottom()).map(|y| format!("{}\n", row(y).trim_end())).collect();
    rows.concat()
}

/// What the main thread is told.
enum Told {
    /// The server's answer, or why there is none.
    Answer(Result<Box<Overview>, String>),
    /// A key, or another size of the terminal.
    Event(Event),
    /// The terminal cannot be read any more.
    Deaf(io::Error),
}

fn live(terminal: &mut DefaultTerminal, typed: &Typed, palette: Palette) -> anyhow::Result<Outcome> {
    let (tell, told) = mpsc::channel();
    ask_for_ever(client(typed), typed.interval, tell.clone());
    read_keys(tell);
    show_for_ever(terminal, typed, palette, &told)
}

/// Draws whatever comes, until it is told to quit.
fn show_for_ever(
    terminal: &mut DefaultTerminal,
    typed: &Typed,
    palette: Palette,
    told: &Receiver<Told>,
) -> anyhow::Result<Outcome> {
    let mut rates = Rates::default();
    let mut trouble = None;
    loop {
        let view = View { url: &typed.url, rates: &rates, trouble: trouble.as_deref(), palette };
        terminal.draw(|frame| frame.render_widget(&view, frame.area()))?;
        // The asking thread only ends after this one.
        match told.recv()? {
            Told::Answer(Ok(overview)) => {
                rates.add(*overview);
                trouble = None;
            }
            Told::Answer(Err(why)) => trouble = Some(why),
            Told::Event(Event::Key(key)) if quits(&key) => return Ok(Outcome::Done),
            Told::Event(_) => {}
            Told::Deaf(error) => return Err(error.into()),
        }
    }
}

/// Whether a key ends it: q, Esc, Ctrl-C.
fn quits(key: &KeyEvent) -> bool {
    let pressed = key.kind == KeyEventKind::Press;
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    pressed
        && match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
            KeyCode::Char('c') => control,
            _ => false,
        }
}

fn client(typed: &Typed) -> Client {
    Client::new(&typed.server(), None)
}

fn ask(client: &Client) -> anyhow::Result<Overview> {
    let answer = client.get("/overview")?;
    serde_json::from_value(answer.value)
        .map_err(|error| anyhow::anyhow!("/overview is not what this version of larder expects: {error}"))
}

fn ask_for_ever(client: Client, interval: Duration, told: Sender<Told>) {
    thread::spawn(move || {
        loop {
            let answer = ask(&client).map(Box::new).map_err(|error| format!("{error:#}"));
            if told.send(Told::Answer(answer)).is_err() {
                return;
            }
            thread::sleep(interval);
        }
    });
}

fn read_keys(told: Sender<Told>) {
    thread::spawn(move || {
        loop {
            let (message, goes_on) = match event::read() {
                Ok(event) => (Told::Event(event), true),
                Err(error) => (Told::Deaf(error), false),
            };
            if told.send(message).is_err() || !goes_on {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_quit() {
        let key = |code, modifiers| KeyEvent::new(code, modifiers);
        for (code, modifiers, ends) in [
            (KeyCode::Char('q'), KeyModifiers::NONE, true),
            (KeyCode::Esc, KeyModifiers::NONE, true),
            (KeyCode::Char('c'), KeyModifiers::CONTROL, true),
            (KeyCode::Char('c'), KeyModifiers::NONE, false),
            (KeyCode::Enter, KeyModifiers::NONE, false),
        ] {
            assert_eq!(quits(&key(code, modifiers)), ends, "{code:?} {modifiers:?}");
        }
        let released = KeyEvent::new_with_kind(KeyCode::Esc, KeyModifiers::NONE, KeyEventKind::Release);
        assert!(!quits(&released));
    }
}
