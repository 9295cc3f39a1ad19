//! Settings of HTTP/2 connections.

use std::time::Duration;

use xds_proto::envoy::config::core::v3 as core_proto;

use super::fault::{At, Fault, Translated, required};
use super::http::{duration, set_time};
use crate::config::{Http2Options, Keepalive};

/// The largest window (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The smallest window that Envoy takes, which is the protocol's own default.
const MIN_WINDOW: u32 = 65_535;
const MAX_TABLE: u32 = 1 << 20;

/// The settings, starting from `options`.
pub(super) fn options(
    message: core_proto::Http2ProtocolOptions,
    options: &mut Http2Options,
) -> Translated<()> {
    let core_proto::Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        max_outbound_frames: _, // ignorable
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        override_stream_error_on_invalid_http_message,
        connection_keepalive,
        use_oghttp2_codec: _, // ignorable
    } = message;
    if allow_metadata {
        return Err(Fault::new("METADATA frames are not supported").under("allow_metadata"));
    }
    if override_stream_error_on_invalid_http_message == Some(false) {
        let reason = "a malformed message always ends its stream alone (RFC 9113 §8.1.1)";
        return Err(Fault::new(reason).under("override_stream_error_on_invalid_http_message"));
    }
    set(&mut options.header_table_bytes, hpack_table_size, 0..=MAX_TABLE).at("hpack_table_size")?;
    set(&mut options.streams, max_concurrent_streams, 1..=MAX_WINDOW).at("max_concurrent_streams")?;
    set(&mut options.stream_window, initial_stream_window_size, MIN_WINDOW..=MAX_WINDOW)
        .at("initial_stream_window_size")?;
    set(&mut options.connection_window, initial_connection_window_size, MIN_WINDOW..=MAX_WINDOW)
        .at("initial_connection_window_size")?;
    options.allows_connect = allow_connect;
    let meter = &mut options.meter;
    let any = 0..=u32::MAX;
    set(&mut meter.control_frames, max_outbound_control_frames, 1..=u32::MAX)
        .at("max_outbound_control_frames")?;
    set(&mut meter.empty_data, max_consecutive_inbound_frames_with_empty_payload, any.clone())
        .at("max_consecutive_inbound_frames_with_empty_payload")?;
    set(&mut meter.priorities_per_stream, max_inbound_priority_frames_per_stream, any)
        .at("max_inbound_priority_frames_per_stream")?;
    set(
        &mut meter.window_updates_per_data,
        max_inbound_window_update_frames_per_data_frame_sent,
        1..=u32::MAX,
    )
    .at("max_inbound_window_update_frames_per_data_frame_sent")?;
    options.keepalive = connection_keepalive.map(keepalive).transpose().at("connection_keepalive")?;
    Ok(())
}

fn set(field: &mut u32, value: Option<u32>, range: std::ops::RangeInclusive<u32>) -> Translated<()> {
    let Some(value) = value else { return Ok(()) };
    if !range.contains(&value) {
        return Err(Fault::new(format!("{value} is not from {} to {}", range.start(), range.end())));
    }
    *field = value;
    Ok(())
}

fn keepalive(message: core_proto::KeepaliveSettings) -> Translated<Keepalive> {
    let core_proto::KeepaliveSettings { interval, timeout, interval_jitter, connection_idle_interval } =
        message;
    let (mut every, mut idle) = (None, None);
    set_time(&mut every, interval).at("interval")?;
    set_time(&mut idle, connection_idle_interval).at("connection_idle_interval")?;
    let timeout = required("timeout", timeout).and_then(|time| duration(time).at("timeout"))?;
    let least = Duration::from_millis(1);
    for (field, time) in [("interval", every), ("timeout", Some(timeout)), ("connection_idle_interval", idle)]
    {
        if time.is_some_and(|time| time < least) {
            return Err(Fault::new("is less than a millisecond").under(field));
        }
    }
    // As in Envoy, 15 % where nothing is said.
    let jitter_percent = interval_jitter.map_or(15.0, |percent| percent.value);
    if !(0.0..=100.0).contains(&jitter_percent) {
        return Err(Fault::new(format!("{jitter_percent} is not from 0 to 100")).under("interval_jitter"));
    }
    Ok(Keepalive { interval: every, jitter_percent: jitter_percent as u32, timeout, idle_interval: idle })
}
