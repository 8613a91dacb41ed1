//! `larder top`: a live view of a running server in a terminal.
//!
//! One thread polls the server for its [`Overview`], one reads keys; both send messages to the main thread, which draws.
//! [`rates`] computes rates from counters, [`view`] draws them; neither uses a terminal or a clock.

mod rates;
mod view;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
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
use crate::Outcome;
use crate::ctl::{Client, InputError, ServerArgs, seconds, url};
use crate::terminal::{print_stderr, print_stdout};

/// The area of a frame that is not printed to a terminal.
const PAGE: Rect = Rect { x: 0, y: 0, width: 80, height: 24 };

/// Show a running server live. q, Esc or Ctrl-C quit.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of the server's HTTP API, http://HOST:PORT, or unix:PATH for its --http-uds
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = url)]
    url: String,
    /// File with the token, if the server has --http-auth-reads
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Seconds between two polls
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    interval: Duration,
    /// Seconds to wait for a response
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,
    /// Print one frame as text, with the rates of one interval
    #[arg(long)]
    once: bool,
}

impl Args {
    fn client(&self) -> Result<Client, InputError> {
        let server = ServerArgs {
            url: self.url.clone(),
            token_file: self.token_file.clone(),
            timeout: self.timeout,
            json: false,
        };
        Ok(Client::new(&server, server.token()?))
    }
}

/// Runs `larder top`.
pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let client = match args.client() {
        Ok(client) => client,
        Err(error) => {
            print_stderr("error", &[error.to_string()]);
            return Ok(Outcome::UsageError);
        }
    };
    if args.once {
        return print_once(args, &client);
    }
    if !io::stdout().is_terminal() {
        print_stderr("error", &["stdout is not a terminal; --once prints one frame".to_owned()]);
        return Ok(Outcome::UsageError);
    }
    let palette = Palette::from_environment();
    let mut terminal = ratatui::try_init()?;
    let result = run_live(&mut terminal, args, client, palette);
    // The terminal may be gone, which is the end that was wanted.
    let _ = ratatui::try_restore();
    result
}

/// Prints one frame. Rates need two polls.
fn print_once(args: &Args, client: &Client) -> anyhow::Result<Outcome> {
    let mut rates = Rates::default();
    rates.add(poll(client)?);
    thread::sleep(args.interval);
    rates.add(poll(client)?);
    let view = View { url: &args.url, rates: &rates, error: None, palette: Palette::Plain };
    let size = ratatui::crossterm::terminal::size().ok().filter(|_| io::stdout().is_terminal());
    let area = size.map_or(PAGE, |(width, height)| Rect { x: 0, y: 0, width, height });
    print_stdout(&text(&view, area))
}

/// A frame as text, without trailing spaces.
fn text(view: &View<'_>, area: Rect) -> String {
    let mut buffer = Buffer::empty(area);
    view.render(area, &mut buffer);
    let row = |y| (area.left()..area.right()).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    let rows: Vec<String> = (area.top()..area.bottom()).map(|y| format!("{}\n", row(y).trim_end())).collect();
    rows.concat()
}

/// A message to the main thread.
enum Message {
    /// The result of a poll.
    Overview(Result<Box<Overview>, String>),
    /// A key, or a new size of the terminal.
    Terminal(Event),
    /// The terminal cannot be read.
    TerminalError(io::Error),
}

fn run_live(
    terminal: &mut DefaultTerminal,
    args: &Args,
    client: Client,
    palette: Palette,
) -> anyhow::Result<Outcome> {
    let (sender, messages) = mpsc::channel();
    spawn_poller(client, args.interval, sender.clone());
    spawn_key_reader(sender);
    draw_until_quit(terminal, args, palette, &messages)
}

fn draw_until_quit(
    terminal: &mut DefaultTerminal,
    args: &Args,
    palette: Palette,
    messages: &Receiver<Message>,
) -> anyhow::Result<Outcome> {
    let mut rates = Rates::default();
    let mut error = None;
    loop {
        let view = View { url: &args.url, rates: &rates, error: error.as_deref(), palette };
        terminal.draw(|frame| frame.render_widget(&view, frame.area()))?;
        // The polling thread outlives this one.
        match messages.recv()? {
            Message::Overview(Ok(overview)) => {
                rates.add(*overview);
                error = None;
            }
            Message::Overview(Err(message)) => error = Some(message),
            Message::Terminal(Event::Key(key)) if is_quit(&key) => return Ok(Outcome::Done),
            Message::Terminal(_) => {}
            Message::TerminalError(error) => return Err(error.into()),
        }
    }
}

/// Whether a key quits: q, Esc, Ctrl-C.
fn is_quit(key: &KeyEvent) -> bool {
    let pressed = key.kind == KeyEventKind::Press;
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    pressed
        && match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
            KeyCode::Char('c') => control,
            _ => false,
        }
}

fn poll(client: &Client) -> anyhow::Result<Overview> {
    let response = client.get("/overview")?;
    serde_json::from_value(response.value)
        .map_err(|error| anyhow::anyhow!("/overview is not what this version of larder expects: {error}"))
}

fn spawn_poller(client: Client, interval: Duration, messages: Sender<Message>) {
    thread::spawn(move || {
        loop {
            let overview = poll(&client).map(Box::new).map_err(|error| format!("{error:#}"));
            if messages.send(Message::Overview(overview)).is_err() {
                return;
            }
            thread::sleep(interval);
        }
    });
}

fn spawn_key_reader(messages: Sender<Message>) {
    thread::spawn(move || {
        loop {
            let (message, is_error) = match event::read() {
                Ok(event) => (Message::Terminal(event), false),
                Err(error) => (Message::TerminalError(error), true),
            };
            if messages.send(message).is_err() || is_error {
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
        for (code, modifiers, quits) in [
            (KeyCode::Char('q'), KeyModifiers::NONE, true),
            (KeyCode::Esc, KeyModifiers::NONE, true),
            (KeyCode::Char('c'), KeyModifiers::CONTROL, true),
            (KeyCode::Char('c'), KeyModifiers::NONE, false),
            (KeyCode::Enter, KeyModifiers::NONE, false),
        ] {
            assert_eq!(is_quit(&key(code, modifiers)), quits, "{code:?} {modifiers:?}");
        }
        let released = KeyEvent::new_with_kind(KeyCode::Esc, KeyModifiers::NONE, KeyEventKind::Release);
        assert!(!is_quit(&released));
    }
}
