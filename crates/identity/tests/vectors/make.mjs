// Signs the claims of claims.json with ethers and with viem, and some JWTs with jose; prints JSON.
// Run where they are installed: npm install ethers@6.17.0 viem@2.57.20 jose@6.2.18
import fs from "node:fs";
import { Wallet } from "ethers";
import { privateKeyToAccount } from "viem/accounts";
import * as jose from "jose";

const { key, cases } = JSON.parse(fs.readFileSync(process.argv[2]));
const V1 = { FulaAuth: [
  { name: "wallet", type: "address" }, { name: "iat", type: "uint256" }, { name: "exp", type: "uint256" },
] };
const V2 = { FulaAuth: [...V1.FulaAuth,
  { name: "audience", type: "string" }, { name: "scope", type: "string[]" },
  { name: "nonce", type: "bytes32" }, { name: "session", type: "address" },
] };
const wallet = new Wallet(key);
const account = privateKeyToAccount(key);
const eip712 = [];
for (const { v, ...message } of cases) {
  const domain = { name: "Fula Gateway", version: v === 2 ? "2" : "1" };
  const types = v === 2 ? V2 : V1;
  const ethers = await wallet.signTypedData(domain, types, message);
  const viem = await account.signTypedData({ domain, types, primaryType: "FulaAuth", message });
  eip712.push({ v: v ?? 1, message, ethers, viem });
}

const claims = { sub: "alice", iss: "https://issuer.example", aud: "fula", iat: 1000, exp: 2000, scope: "storage:*" };
const jwt = { keys: [] };
for (const [name, alg, options] of [["rs256", "RS256"], ["es256", "ES256"], ["eddsa", "EdDSA", { crv: "Ed25519" }]]) {
  const { publicKey, privateKey } = await jose.generateKeyPair(alg, { extractable: true, ...options });
  jwt.keys.push({ ...(await jose.exportJWK(publicKey)), kid: name, alg, use: "sig" });
  jwt[name] = await new jose.SignJWT(claims).setProtectedHeader({ alg, kid: name, typ: "JWT" }).sign(privateKey);
}
const secret = new TextEncoder().encode("a shared secret of enough bytes!!");
jwt.hs256 = await new jose.SignJWT(claims).setProtectedHeader({ alg: "HS256" }).sign(secret);
// The classic confusion: the text of a public key used as a shared secret.
const confused = new TextEncoder().encode(JSON.stringify(jwt.keys[0]));
jwt.confused = await new jose.SignJWT(claims).setProtectedHeader({ alg: "HS256", kid: "rs256" }).sign(confused);
console.log(JSON.stringify({ eip712, jwt }, null, 1));
