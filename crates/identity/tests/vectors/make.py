"""Signs the claims of claims.json with eth-account; prints JSON. pip install eth-account==0.14.0"""
import json
import sys

from eth_account import Account

V1 = [{"name": "wallet", "type": "address"}, {"name": "iat", "type": "uint256"},
      {"name": "exp", "type": "uint256"}]
V2 = V1 + [{"name": "audience", "type": "string"}, {"name": "scope", "type": "string[]"},
           {"name": "nonce", "type": "bytes32"}, {"name": "session", "type": "address"}]
given = json.load(open(sys.argv[1]))
signed = []
for case in given["cases"]:
    version = case.pop("v", 1)
    if version == 2:
        case["nonce"] = bytes.fromhex(case["nonce"][2:])
    data = {"name": "Fula Gateway", "version": str(version)}
    made = Account.sign_typed_data(given["key"], data, {"FulaAuth": V2 if version == 2 else V1}, case)
    signed.append("0x" + made.signature.hex().removeprefix("0x"))
print(json.dumps(signed, indent=1))
