//! `fula token`: makes wallet tokens. It needs no gateway.

use std::{
    io::{IsTerminal, Read},
    path::Path,
    process::ExitCode,
};

use fula_core::error::io_text;
use fula_identity::{
    Address, Seconds,
    eip712::{Claims, V2},
    wallet::{WalletKey, recover},
    wallet_token,
};
use fula_service::system_random;
use fula_stores::local::system_clock;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

use super::Failure;
use crate::{
    cli::{ClaimArgs, TokenArgs, TokenCommand, TokenOutput},
    files::{self, FileError},
    keystore,
    output::{self, say},
};

/// Runs `fula token`.
pub(crate) fn run(args: TokenArgs) -> ExitCode {
    match carry_out(args.command) {
        Ok(printed) => {
            printed.write();
            ExitCode::SUCCESS
        }
        Err(text) => Failure::from(text).report(),
    }
}

/// The output of a command.
enum Printed {
    /// Text of one or more lines.
    Lines(String),
    /// A token. It is printed without a line end, unless to a terminal, because some tools would send that
    /// with it.
    Token(String),
}

impl Printed {
    fn write(&self) {
        match self {
            Self::Token(token) if !std::io::stdout().is_terminal() => {
                output::write(|out| out.write_all(token.as_bytes()));
            }
            Self::Token(text) | Self::Lines(text) => say!("{text}"),
        }
    }
}

fn carry_out(command: TokenCommand) -> Result<Printed, String> {
    match command {
        TokenCommand::Keygen { file, password_file } => {
            let password = password(password_file.as_deref(), true)?;
            let random = system_random();
            let mut secret = Zeroizing::new([0; 32]);
            let wallet = loop {
                random(secret.as_mut_slice());
                // Nearly every number of 32 bytes is a valid key.
                if let Some(wallet) = WalletKey::new(&secret) {
                    break wallet;
                }
            };
            let text = keystore::encrypt(&wallet, &password, &random);
            let text = text.map_err(|error| error.to_string())?;
            files::write_new(&file, &text).map_err(|error| error.to_string())?;
            Ok(Printed::Lines(wallet.address().to_string()))
        }
        TokenCommand::Mint { key_file, password_file, claims, output } => {
            let setting = FileError::of_setting("--key-file (FULA_WALLET_KEY_FILE)");
            let text = files::read_text(&key_file).map_err(setting);
            let text = text.map_err(|error| error.to_string())?;
            let password = password(password_file.as_deref(), false)?;
            let wallet = keystore::decrypt(&text, &password)
                .map_err(|error| format!("{}: {error}", key_file.display()))?;
            let claims = claimed(wallet.address(), &claims);
            Ok(print(&wallet_token::mint(&wallet, &claims), claims.exp, output))
        }
        TokenCommand::TypedData { wallet, claims } => {
            Ok(Printed::Lines(format!("{:#}", claimed(wallet, &claims).to_typed_data())))
        }
        TokenCommand::Assemble { typed_data, signature, output } => {
            let claims = read_typed_data(&typed_data)?;
            if recover(&claims.digest(), &signature) != Some(claims.wallet) {
                let text = "the signature is not that of the wallet over this typed data";
                return Err(text.to_owned());
            }
            Ok(print(&wallet_token::assemble(&claims, &signature), claims.exp, output))
        }
    }
}

/// Reads the password of a key file from `file`, or from the terminal.
fn password(file: Option<&Path>, is_new: bool) -> Result<Zeroizing<Vec<u8>>, String> {
    if let Some(path) = file {
        let setting = FileError::of_setting("--password-file (FULA_WALLET_PASSWORD_FILE)");
        let read = files::read_secret(path).map_err(setting);
        return read.map_err(|error| error.to_string());
    }
    let ask = |text: &str| {
        let asked = rpassword::prompt_password(text);
        asked.map(Zeroizing::new).map_err(|error| {
            format!("cannot ask for the password ({error}); name its file with --password-file")
        })
    };
    let password = ask("Password: ")?;
    if is_new && *ask("Password again: ")? != *password {
        return Err("the passwords differ".to_owned());
    }
    Ok(Zeroizing::new(password.as_bytes().to_vec()))
}

/// Returns claims that are valid from now on.
fn claimed(wallet: Address, args: &ClaimArgs) -> Claims {
    let life = args.lifetime.0.as_secs();
    let iat: Seconds = system_clock()() / 1000;
    let mut nonce = [0; 32];
    system_random()(&mut nonce);
    let v2 = V2 {
        audience: args.audience.clone(),
        scope: args.scope.clone(),
        nonce,
        session: Address::ZERO,
    };
    Claims { wallet, iat, exp: iat + life, v2: (!args.v1).then_some(v2) }
}

/// Reads the typed data that `fula token typed-data` printed.
fn read_typed_data(path: &Path) -> Result<Claims, String> {
    let mut text = String::new();
    if path == Path::new("-") {
        let read = std::io::stdin().take(1 << 20).read_to_string(&mut text);
        read.map_err(|error| format!("cannot read standard input: {}", io_text(&error)))?;
    } else {
        let read = files::read_text(path).map_err(FileError::of_setting("--typed-data"));
        text = read.map_err(|error| error.to_string())?;
    }
    let data = serde_json::from_str::<Value>(&text).ok();
    let claims = data.and_then(|data| {
        claims_of(&data["message"]).filter(|claims| claims.to_typed_data() == data)
    });
    claims.ok_or_else(|| {
        "--typed-data is not what `fula token typed-data` printed: make it again, and do not change it"
            .to_owned()
    })
}

fn claims_of(message: &Value) -> Option<Claims> {
    let text = |name: &str| message[name].as_str();
    let v2 = if message.get("audience").is_some() {
        let mut nonce = [0; 32];
        hex::decode_to_slice(text("nonce")?.strip_prefix("0x")?, &mut nonce).ok()?;
        let scope =
            message["scope"].as_array()?.iter().map(|scope| Some(scope.as_str()?.to_owned()));
        Some(V2 {
            audience: text("audience")?.to_owned(),
            scope: scope.collect::<Option<_>>()?,
            nonce,
            session: Address::parse(text("session")?)?,
        })
    } else {
        None
    };
    let wallet = Address::parse(text("wallet")?)?;
    Some(Claims { wallet, iat: message["iat"].as_u64()?, exp: message["exp"].as_u64()?, v2 })
}

/// Returns a token in the requested form.
fn print(token: &str, exp: Seconds, output: TokenOutput) -> Printed {
    let secret = fula_identity::secret_of(token);
    match output {
        TokenOutput::Bearer => Printed::Token(token.to_owned()),
        TokenOutput::Env => Printed::Lines(format!(
            "export AWS_ACCESS_KEY_ID={token}\nexport AWS_SECRET_ACCESS_KEY={secret}\n\
             unset AWS_SESSION_TOKEN"
        )),
        TokenOutput::CredentialProcess => {
            let expires = OffsetDateTime::from_unix_timestamp(i64::try_from(exp).unwrap_or(0));
            let expires = expires.ok().and_then(|time| time.format(&Rfc3339).ok());
            let printed = json!({
                "Version": 1,
                "AccessKeyId": token,
                "SecretAccessKey": secret,
                "Expiration": expires,
            });
            Printed::Lines(printed.to_string())
        }
    }
}
