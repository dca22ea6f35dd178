//! The control thread of a device: add or recover, start, then do what the server is told, until it ends.
//!
//! Everything here may wait in the driver. Steps are announced, so that whoever waits knows what for.
//!
//! **Order.** ADD or START_USER_RECOVERY; queues fetch; START or END_USER_RECOVERY (the driver waits for the fetches and
//! then reads the partition table through them); serve; STOP (the driver drains requests, then aborts the fetches);
//! queues end; the character device is closed; DEL, without waiting for those who still have the block device open.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use libublk::UblkFlags;
use libublk::ctrl::{UblkCtrl, UblkCtrlBuilder};
use libublk::io::UblkDev;
use libublk::sys;

use super::completions::Completions;
use super::errors::{done, ours};
use super::options::UblkOptions;
use super::params::{logical_block, parameters, size_bytes};
use super::probe::{DriverFeatures, probe};
use super::recovery::{Plan, device_identity, plan, remove};
use super::{busy, queue};
use crate::core::request::NamespaceClient;
use crate::error::{Error, Result};
use crate::fail;

/// What the control thread says while it brings a device up.
pub(super) enum Progress {
    /// It now does this.
    Step(&'static str),
    /// The device serves.
    Ready(Ready),
    /// It will not.
    Failed(Error),
}

/// A device that serves.
pub(super) struct Ready {
    /// `N` of `/dev/ublkbN`.
    pub(super) number: u32,
    /// Whether it was there before.
    pub(super) recovered: bool,
}

/// What a server may be told, each with the way back.
pub(super) enum Command {
    /// Change the size to this many bytes.
    Resize(u64, Sender<Result<()>>),
    /// Stop and remove the device; with `force` even if it is in use.
    Stop {
        /// Fail the I/O of whoever uses it.
        force: bool,
        /// The way back.
        ended: Sender<Result<()>>,
    },
    /// Leave the device to the next server.
    Leave(Sender<Result<()>>),
}

struct QueueThread {
    completions: Arc<Completions>,
    thread: JoinHandle<()>,
}

struct Control {
    // dropped in this order: threads use the device, the device's file keeps the driver from deleting it
    queues: Vec<QueueThread>,
    device: Option<Arc<UblkDev>>,
    ctrl: UblkCtrl,
    client: NamespaceClient,
    features: DriverFeatures,
    recovered: bool,
}

/// The control thread's life.
pub(super) fn run(
    client: NamespaceClient,
    options: &UblkOptions,
    progress: &Sender<Progress>,
    commands: &Receiver<Command>,
) {
    let mut control = match Control::bring_up(client, options, progress) {
        Ok(control) => control,
        Err(error) => {
            tell(progress, Progress::Failed(error));
            return;
        }
    };
    let ready = Ready { number: control.ctrl.dev_info().dev_id, recovered: control.recovered };
    if progress.send(Progress::Ready(ready)).is_err() {
        tracing::warn!("nobody waited for {}", control.path().display());
    }
    while let Ok(command) = commands.recv() {
        let (ended, result, over) = match command {
            Command::Resize(bytes, ended) => (ended, control.resize(bytes), false),
            Command::Stop { force, ended } => {
                let result = control.stop(force);
                let over = control.device.is_none();
                (ended, result, over)
            }
            Command::Leave(ended) => (ended, control.end_queues(), true),
        };
        if ended.send(result).is_err() {
            tracing::debug!("nobody waited for the end of a command");
        }
        if over {
            return;
        }
    }
}

fn tell(progress: &Sender<Progress>, what: Progress) {
    if let Err(unheard) = progress.send(what)
        && let Progress::Failed(error) = unheard.0
    {
        tracing::error!(%error, "a ublk device that nobody waits for any more");
    }
}

impl Control {
    fn bring_up(client: NamespaceClient, options: &UblkOptions, progress: &Sender<Progress>) -> Result<Self> {
        tell(progress, Progress::Step("looking for devices of this namespace"));
        let features = probe()?;
        let identity = device_identity(client.pool, client.id);
        let plan = plan(identity)?;
        let recovered = matches!(plan, Plan::Recover(_));
        let (ctrl, params) = match plan {
            Plan::Add => {
                tell(
                    progress,
                    Progress::Step("adding a device (kernel 6.17 has a fault that lets this wait for ever)"),
                );
                add(&client, options, features, identity)?
            }
            Plan::Recover(info) => {
                tell(progress, Progress::Step("recovering a device"));
                recover(&client, &info)?
            }
        };
        let mut control = Self { queues: Vec::new(), device: None, ctrl, client, features, recovered };
        tell(progress, Progress::Step("starting a device"));
        if let Err(error) = control.start(params, progress) {
            if let Err(also) = control.end_queues() {
                tracing::warn!(error = %also, "after a device did not start");
            }
            return Err(error);
        }
        // from here on the device goes only when it is told to, not when this thread ends
        control.ctrl.disown();
        control.follow_size(&params);
        Ok(control)
    }

    fn start(&mut self, params: sys::ublk_params, progress: &Sender<Progress>) -> Result<()> {
        let set_up = |device: &mut UblkDev| {
            device.tgt.dev_size = size_bytes(&params);
            device.tgt.params = params;
            // room for every tag at once, and for the bell
            device.tgt.cq_depth = device.dev_info.queue_depth.saturating_mul(2);
            Ok(())
        };
        let device = UblkDev::new("plica".to_owned(), set_up, &self.ctrl)
            .map_err(|error| ours("opening the character device", error))?;
        let device = Arc::new(device);
        self.device = Some(device.clone());
        for number in 0..device.dev_info.nr_hw_queues {
            self.start_queue(&device, number, progress)?;
        }
        private_run_directory();
        done("starting the device", self.ctrl.start_dev(&device)).map(drop)
    }

    fn start_queue(&mut self, device: &Arc<UblkDev>, number: u16, progress: &Sender<Progress>) -> Result<()> {
        let completions = Arc::new(Completions::new(device.dev_info.queue_depth)?);
        let (introduce, introduced) = channel();
        let (its_device, its_completions) = (device.clone(), completions.clone());
        let (client, progress) = (self.client.clone(), progress.clone());
        let serve = move || {
            // marks the thread as one that memory reclaim may wait for
            if introduce.send(UblkCtrl::init_queue_thread()).is_err() {
                return;
            }
            if let Err(error) = queue::serve(&its_device, number, client, its_completions) {
                let error = error.within(format!("ublk queue {number}"));
                tracing::error!(%error, "I/O of this queue waits until the device is recovered");
                // heard while the device starts, and of no interest afterwards
                drop(progress.send(Progress::Failed(error)));
            }
        };
        let name = format!("ublk{}-q{number}", device.dev_info.dev_id);
        let thread = thread::Builder::new().name(name).spawn(serve);
        let thread = thread.map_err(|error| Error::io("starting a queue thread", error))?;
        self.queues.push(QueueThread { completions, thread });
        let Ok(thread_id) = introduced.recv() else { fail!(Io, "queue thread {number} ended at once") };
        if device.dev_info.nr_hw_queues > 1 {
            self.ctrl.set_thread_affinity(number, thread_id);
        }
        done("configuring a queue", self.ctrl.configure_queue(device, number, thread_id)).map(drop)
    }

    /// The namespace may have changed its size while a recovered device had no server.
    fn follow_size(&self, params: &sys::ublk_params) {
        let (has, wants) = (size_bytes(params), self.client.size_bytes());
        if has == wants {
            return;
        }
        if let Err(error) = self.resize(wants) {
            let path = self.path();
            tracing::warn!(path = %path.display(), has, wants, %error, "the device keeps its size until it is stopped");
        }
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        if !self.features.resize() {
            fail!(Unsupported, "this kernel's ublk driver cannot resize a device (Linux 6.16 can)");
        }
        done("resizing the device", self.ctrl.update_size(bytes)).map(drop)
    }

    fn stop(&mut self, force: bool) -> Result<()> {
        let path = self.path();
        // held until the device has stopped, so that nobody mounts it meanwhile
        let claimed = if force { None } else { busy::claim(&path)? };
        done("stopping the device", self.ctrl.kill_dev())?;
        drop(claimed);
        self.end_queues()?;
        remove(&self.ctrl)
    }

    /// Ends the queue threads and closes the character device: a live device then waits for its next server.
    fn end_queues(&mut self) -> Result<()> {
        for queue in &self.queues {
            queue.completions.leave();
        }
        let mut panicked = 0;
        for queue in self.queues.drain(..) {
            panicked += usize::from(queue.thread.join().is_err());
        }
        self.device = None;
        if panicked > 0 {
            fail!(Io, "{panicked} queue threads of {} panicked", self.path().display());
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(self.ctrl.get_bdev_path())
    }
}

fn add(
    client: &NamespaceClient,
    options: &UblkOptions,
    features: DriverFeatures,
    identity: u64,
) -> Result<(UblkCtrl, sys::ublk_params)> {
    let number = options.number.map_or(-1, |number| i32::try_from(number).unwrap_or(-1));
    let ctrl = UblkCtrlBuilder::default()
        .name("plica")
        .id(number)
        .nr_queues(options.queues)
        .depth(options.depth)
        .io_buf_bytes(options.io_bytes)
        .ctrl_flags(features.device_flags())
        .ctrl_target_flags(identity)
        .dev_flags(UblkFlags::UBLK_DEV_F_ADD_DEV)
        .build()
        .map_err(|error| ours("adding a device", error))?;
    let info = ctrl.dev_info();
    // libublk takes EBUSY for success, and the driver drops flags that it does not know
    if info.ublksrv_flags != identity || !DriverFeatures::new(info.flags).sufficient() {
        fail!(Unsupported, "the ublk driver gave no device with user recovery and user copy");
    }
    let params = parameters(client.size_bytes(), client.logical_block, info.max_io_buf_bytes)?;
    Ok((ctrl, params))
}

fn recover(client: &NamespaceClient, info: &sys::ublksrv_ctrl_dev_info) -> Result<(UblkCtrl, sys::ublk_params)> {
    let Ok(number) = i32::try_from(info.dev_id) else { fail!(Config, "device number {}", info.dev_id) };
    let ctrl = UblkCtrlBuilder::default()
        .name("plica")
        .id(number)
        .nr_queues(info.nr_hw_queues)
        .depth(info.queue_depth)
        .io_buf_bytes(info.max_io_buf_bytes)
        .dev_flags(UblkFlags::UBLK_DEV_F_RECOVER_DEV)
        .build()
        .map_err(|error| ours("opening a device to recover", error))?;
    if !DriverFeatures::new(info.flags).sufficient() {
        fail!(Unsupported, "{} is without user recovery or user copy: it was not made by us", ctrl.get_bdev_path());
    }
    let mut params = sys::ublk_params::default();
    done("reading a device's parameters", ctrl.get_params(&mut params))?;
    if logical_block(&params) != client.logical_block {
        fail!(
            Config,
            "{} has logical blocks of {} bytes, the namespace of {}: it is not a device of this namespace",
            ctrl.get_bdev_path(),
            logical_block(&params),
            client.logical_block
        );
    }
    done("beginning recovery", ctrl.start_user_recover())?;
    Ok((ctrl, params))
}

/// libublk keeps notes on devices here and would make the directory writable for everybody.
fn private_run_directory() {
    let directory = UblkCtrl::run_dir();
    if Path::new(&directory).exists() {
        return;
    }
    if let Err(error) = fs::DirBuilder::new().recursive(true).mode(0o755).create(&directory) {
        tracing::warn!(directory, %error, "no notes on ublk devices can be kept");
    }
}
