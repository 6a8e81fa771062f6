//! `fula vault create`, `open`, `device`, `slots`, `add`, `remove`, `recover` and `checkpoint`.

use std::process::ExitCode;

use fula_client::{
    Error, Result,
    vault::{CreateOptions, Unlock, Vault},
};
use fula_seal::{
    Padding,
    keyring::{Founder, Role},
    signature::PublicKey,
    slot::{Identity, Recipient, SlotKind},
};
use serde_json::json;

use super::{
    local::{self, Local, System},
    reseal, share, watch,
};
use crate::{
    cli::{
        VaultAddArgs, VaultArgs, VaultCheckpointArgs, VaultCommand, VaultCreateArgs, VaultOpenArgs,
        VaultPadding, VaultRecoverArgs,
    },
    commands::objects::{connect, ended, place::printable},
    output::{note, say},
};

/// Runs `fula vault`.
pub(crate) async fn run(args: VaultArgs) -> ExitCode {
    let json = args.command.json();
    ended(carry_out(args.command, json).await, json)
}

async fn carry_out(command: VaultCommand, json: bool) -> Result<ExitCode> {
    let local = Local::open()?;
    match command {
        VaultCommand::Create(args) => create(&local, args, json).await?,
        VaultCommand::Open(args) => open(&local, args, json).await?,
        VaultCommand::Device(_) => device(&local, json)?,
        VaultCommand::Slots(args) => {
            slots(&local.vault(&connect(&args.remote)?, &args.name).await?, json);
        }
        VaultCommand::Add(args) => {
            add(&local.vault(&connect(&args.remote)?, &args.name).await?, args, json).await?;
        }
        VaultCommand::Remove(args) => {
            let vault = local.vault(&connect(&args.remote)?, &args.name).await?;
            vault.remove_member(&args.label).await?;
        }
        VaultCommand::Reseal(args) => {
            let vault = local.vault(&connect(&args.remote)?, &args.name).await?;
            return reseal::reseal(&vault, &args).await;
        }
        VaultCommand::Share(args) => share::share(args).await?,
        VaultCommand::Shares(args) => {
            let vault = local.vault(&connect(&args.remote)?, &args.name).await?;
            share::shares(&vault, json).await?;
        }
        VaultCommand::Unshare(args) => {
            let vault = local.vault(&connect(&args.remote)?, &args.name).await?;
            vault.unshare(&args.link).await?;
        }
        VaultCommand::Watch(args) => {
            let vault = local.vault(&connect(&args.remote)?, &args.name).await?;
            watch::watch(&vault, json).await?;
        }
        VaultCommand::Recover(args) => {
            let vault = local.vault(&connect(&args.remote)?, &args.name).await?;
            return recover(&vault, &args, json).await;
        }
        VaultCommand::Checkpoint(args) => {
            let vault = local.vault(&connect(&args.remote)?, &args.name).await?;
            checkpoint(&vault, &args, json).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the keys of this device.
fn device(local: &Local, json: bool) -> Result<()> {
    let device = local.device()?;
    let (recipient, writer) =
        (device.recipient().to_string(), hex::encode(device.signing_key().public().0));
    if json {
        say!("{}", json!({"recipient": recipient, "writer": writer}));
    } else {
        say!("--recipient {recipient}");
        say!("--writer {writer}");
    }
    Ok(())
}

/// Prints the invitation of a vault, and words if there are new ones.
fn show(vault: &Vault, place: &str, words: Option<&Identity>, json: bool) {
    let invitation = format!("vault:{place}#{}", vault.fingerprint());
    let words = words.map(Identity::to_words);
    if json {
        let words = words.as_deref().map(String::as_str);
        say!("{}", json!({"invitation": invitation, "words": words}));
        return;
    }
    say!("{invitation}");
    if let Some(words) = words {
        note!("Write down these 24 words. They open the vault, and are not shown again:");
        say!("{}", words.as_str());
    }
}

async fn create(local: &Local, args: VaultCreateArgs, json: bool) -> Result<()> {
    local.check_free(&args.name)?;
    let client = connect(&args.remote)?;
    let (place, device) = (local::place(&client, &args.place)?, local.device()?);
    let label = local::label(args.label.as_deref());
    let passphrase = local::passphrase(&args.secret, true)?;
    let cost = local::cost()?;
    let stretched = passphrase.map(|text| Identity::from_passphrase(&text, &cost)).transpose()?;
    let words = args.words.then(|| Identity::generate(&mut System)).transpose()?;
    let mut founders = vec![Founder { identity: &device, kind: SlotKind::Device, label: &label }];
    founders.extend(stretched.iter().map(|identity| Founder {
        identity,
        kind: SlotKind::Passphrase(cost),
        label: "passphrase",
    }));
    founders.extend(words.iter().map(|identity| Founder {
        identity,
        kind: SlotKind::Mnemonic,
        label: "words",
    }));
    let padding = match args.padding {
        VaultPadding::Padme => Padding::Padme,
        VaultPadding::None => Padding::None,
    };
    let options = CreateOptions { vault: None, padding };
    let vault = Vault::create(place, options, &founders, &local.state()).await?;
    local.remember(&args.name, &args.place)?;
    show(&vault, &args.place, words.as_ref(), json);
    if founders.len() == 1 {
        note!(
            "Only this device opens the vault. Add another way in: fula vault add {} paper --words",
            args.name
        );
    }
    Ok(())
}

async fn open(local: &Local, args: VaultOpenArgs, json: bool) -> Result<()> {
    local.check_free(&args.name)?;
    let client = connect(&args.remote)?;
    let (text, fingerprint) = local::with_fingerprint(&args.place)?;
    let (device, state) = (local.device()?, local.state());
    let place = || local::place(&client, text);
    let passphrase = local::passphrase(&args.secret, false)?;
    let words = match &args.words_file {
        Some(file) => {
            let text = std::fs::read_to_string(file).map(zeroize::Zeroizing::new);
            Some(Identity::from_words(&text.map_err(Error::io(file.display().to_string()))?)?)
        }
        None => None,
    };
    let is_other = passphrase.is_some() || words.is_some();
    let unlock = match (&passphrase, words) {
        (Some(passphrase), _) => Unlock::Passphrase(passphrase),
        (None, Some(words)) => Unlock::Identity(words),
        (None, None) => Unlock::Identity(local.device()?),
    };
    let vault = Vault::open(place()?, unlock, fingerprint, &state).await?;
    let recipient = device.recipient();
    let has_slot = vault.slots().iter().any(|(slot, _)| *slot.recipient() == recipient);
    if is_other && !has_slot {
        let label = local::label(args.label.as_deref());
        let enrol = |draft: &mut fula_seal::keyring::Draft<'_>,
                     entropy: &mut dyn fula_seal::Entropy| {
            draft.enrol(&device, (SlotKind::Device, &label), Some(Role::Admin), entropy)
        };
        vault.change_keyring(enrol).await?;
    }
    local.remember(&args.name, text)?;
    show(&vault, text, None, json);
    Ok(())
}

fn kind_text(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Device => "device",
        SlotKind::Passphrase(_) => "passphrase",
        SlotKind::Mnemonic => "words",
        SlotKind::Recipient => "recipient",
        SlotKind::Wallet(_) => "wallet",
    }
}

fn slots(vault: &Vault, json: bool) {
    for (slot, label) in vault.slots() {
        let kind = kind_text(slot.kind());
        if json {
            say!("{}", json!({"slot": slot.id().to_string(), "kind": kind, "label": label}));
        } else {
            say!("opens   {}  {kind:<10}  {}", slot.id(), printable(&label));
        }
    }
    for (member, label) in vault.members() {
        let role = match (member.until, member.role) {
            (Some(_), _) => "left",
            (None, Role::Admin) => "admin",
            (None, Role::Writer) => "writer",
        };
        if json {
            say!("{}", json!({"member": member.id().to_string(), "role": role, "label": label}));
        } else {
            say!("writes  {}  {role:<10}  {}", member.id(), printable(&label));
        }
    }
}

fn writer_key(text: &str) -> Result<PublicKey> {
    let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    let wrong = || Error::Invalid("--writer: it is what `fula vault device` prints".to_owned());
    bytes.map(PublicKey).ok_or_else(wrong)
}

async fn add(vault: &Vault, args: VaultAddArgs, json: bool) -> Result<()> {
    let recipient = args.recipient.as_deref().map(str::parse::<Recipient>).transpose()?;
    let writer = args.writer.as_deref().map(writer_key).transpose()?;
    let passphrase = local::passphrase(&args.secret, true)?;
    let cost = local::cost()?;
    let stretched = passphrase.map(|text| Identity::from_passphrase(&text, &cost)).transpose()?;
    let words = args.words.then(|| Identity::generate(&mut System)).transpose()?;
    if recipient.is_none() && writer.is_none() && stretched.is_none() && words.is_none() {
        return Err(Error::Invalid(
            "who is added? give --recipient, --writer, --passphrase or --words".to_owned(),
        ));
    }
    let role = if args.admin { Role::Admin } else { Role::Writer };
    let change = |draft: &mut fula_seal::keyring::Draft<'_>,
                  entropy: &mut dyn fula_seal::Entropy| {
        if let Some(recipient) = &recipient {
            draft.invite(recipient, &args.label, entropy)?;
        }
        if let Some(writer) = writer {
            draft.admit(writer, role, &args.label)?;
        }
        let own = [(&stretched, SlotKind::Passphrase(cost)), (&words, SlotKind::Mnemonic)];
        for (identity, kind) in own {
            if let Some(identity) = identity {
                draft.enrol(identity, (kind, &args.label), Some(Role::Admin), entropy)?;
            }
        }
        Ok(())
    };
    vault.change_keyring(change).await?;
    show(vault, &vault.place(), words.as_ref(), json);
    Ok(())
}

async fn recover(vault: &Vault, args: &VaultRecoverArgs, json: bool) -> Result<ExitCode> {
    let recovered = vault.recover(&args.folder).await?;
    for file in &recovered.files {
        let file = file.display().to_string();
        if json {
            say!("{}", json!({"file": file}));
        } else {
            say!("{}", printable(&file));
        }
    }
    for (key, error) in &recovered.failed {
        if json {
            say!("{}", json!({"key": key, "error": error.to_string()}));
        }
        note!("fula: {}: {}", printable(key), printable(&error.to_string()));
    }
    Ok(if recovered.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn checkpoint(vault: &Vault, args: &VaultCheckpointArgs, json: bool) -> Result<()> {
    let now = vault.checkpoint().await?;
    if let Some(other) = &args.other {
        now.check_follows(&other.parse()?)?;
    }
    if json {
        say!(
            "{}",
            json!({"checkpoint": now.to_string(), "generation": now.generation,
            "version": now.version, "root": now.root.to_string()})
        );
    } else {
        say!("{now}");
    }
    Ok(())
}
