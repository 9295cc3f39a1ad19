//! A name server that says what it is told to (RFC 1035), over UDP.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

/// What is answered to questions about a name.
#[derive(Debug, Clone, Default)]
struct Answer {
    addresses: Vec<Ipv4Addr>,
    ttl: u32,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Answer>,
    fails: bool,
    asked: u32,
}

/// A name server on a port of this machine. Its thread ends with the process.
#[derive(Debug)]
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl NameServer {
    /// Starts one that knows no name.
    pub fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = socket.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            let mut packet = [0; 1_500];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let reply = shared.lock().unwrap_or_else(PoisonError::into_inner).reply(&packet[..length]);
                let _ = socket.send_to(&reply, from);
            }
        });
        Self { address, state }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says from now on that a name has these addresses for so many seconds.
    pub fn set(&self, name: &str, addresses: &[[u8; 4]], ttl: u32) {
        let addresses = addresses.iter().map(|bytes| Ipv4Addr::from(*bytes)).collect();
        self.with(|state| state.names.insert(name.to_owned(), Answer { addresses, ttl }));
    }

    /// Answers that it failed (SERVFAIL), or no longer does.
    pub fn fail(&self, fails: bool) {
        self.with(|state| state.fails = fails);
    }

    /// Questions so far.
    pub fn asked(&self) -> u32 {
        self.with(|state| state.asked)
    }
}

impl State {
    fn reply(&mut self, packet: &[u8]) -> Vec<u8> {
        self.asked += 1;
        // The question follows the header of 12 bytes: labels, then type and class.
        let mut labels = Vec::new();
        let mut at = 12;
        while let Some(length) = packet.get(at).copied().map(usize::from).filter(|length| *length > 0) {
            labels.push(String::from_utf8_lossy(&packet[at + 1..at + 1 + length]).to_lowercase());
            at += 1 + length;
        }
        let question = &packet[12..at + 5];
        let is_v4 = packet[at + 2] == 1;
        let known = self.names.get(&labels.join("."));
        let (servfail, nxdomain) = (2, 3);
        let code = match known {
            _ if self.fails => servfail,
            None => nxdomain,
            Some(_) => 0,
        };
        let answer = known.filter(|_| is_v4 && code == 0).cloned().unwrap_or_default();
        let count = answer.addresses.len() as u8;
        let mut reply = packet[..2].to_vec();
        reply.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
        reply.extend_from_slice(question);
        for address in answer.addresses {
            // The name of the question, type A, class IN.
            reply.extend([0xc0, 12, 0, 1, 0, 1]);
            reply.extend(answer.ttl.to_be_bytes());
            reply.extend([0, 4]);
            reply.extend(address.octets());
        }
        reply
    }
}
