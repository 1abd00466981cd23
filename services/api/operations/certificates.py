"""`python -m services.api.operations.certificates`: certificates for the calls between the services of one
installation.

Writes `ca.pem`, `cert.pem` and `key.pem` into DIRL_RPC_TLS_DIR, good for every host that
DIRL_ROLLOUT_ADDRESSES, DIRL_TRAINER_ADDRESSES and DIRL_REWARD_ADDRESS name, and for this machine;
keeps what is good for these hosts. The authority's key is discarded, so it cannot sign another
one; for separate certificates per service use your own authority.
"""

import ipaddress
import sys
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.api.db.clock import utc_now
from services.api.settings import ApiSettings
from services.common.settings import read_settings
from services.common.telemetry.logs import configure_logging, get_logger

_VALID: Final = timedelta(days=3650)
_CLOCK_SKEW: Final = timedelta(hours=1)


def ensure_certificates(directory: Path, hosts: Collection[str]) -> bool:
    """Make certificates for the hosts unless there are; returns whether new ones were written."""
    if _covers(directory, hosts):
        return False
    authority_key = ec.generate_private_key(ec.SECP256R1())
    name = _make_name("DiRL Platform authority")
    authority = (
        _make_builder(name, name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate, key = _make_certificate(hosts, authority, authority_key)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(directory / "ca.pem", authority.public_bytes(Encoding.PEM))
    _write(directory / "cert.pem", certificate.public_bytes(Encoding.PEM))
    _write(directory / "key.pem", private)  # the last: services wait for it
    return True


def installation_hosts(settings: ApiSettings) -> list[str]:
    """Every host that a service is called at."""
    addresses = (*settings.rollout_addresses, *settings.trainer_addresses, settings.reward_address)
    hosts = {address.rpartition(":")[0].strip("[]") for address in addresses}
    return sorted(hosts | {"localhost", "127.0.0.1"})


def _covers(directory: Path, hosts: Collection[str]) -> bool:
    if not (directory / "key.pem").exists():
        return False
    certificate = x509.load_pem_x509_certificate((directory / "cert.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        set(map(_to_general_name, hosts)) <= set(names)
        and utc_now() < certificate.not_valid_after_utc
    )


def _make_certificate(
    hosts: Collection[str], authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    builder = (
        _make_builder(_make_name("DiRL Platform service"), authority.subject, key)
        .add_extension(x509.SubjectAlternativeName(map(_to_general_name, hosts)), critical=False)
        .add_extension(usage, critical=False)
    )
    return builder.sign(authority_key, hashes.SHA256()), key


def _make_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = utc_now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALID)
    )


def _make_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _to_general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_bytes(content)
    partial.rename(path)


def main() -> None:
    """Make what is missing, and end."""
    settings = read_settings(ApiSettings)
    configure_logging("certificates", settings.log_level, settings.log_format)
    if settings.rpc_tls_dir is None:
        sys.exit("No directory for certificates: set DIRL_RPC_TLS_DIR.")
    hosts = installation_hosts(settings)
    made = ensure_certificates(settings.rpc_tls_dir, hosts)
    what = "certificates made; restart services that run" if made else "certificates kept"
    get_logger().info(what, hosts=hosts, directory=str(settings.rpc_tls_dir))


if __name__ == "__main__":
    main()
