"""What the web source must never connect to, however it is spelled or reached."""

import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from tests.web_site import picture, settings
from usam_core.sources.web.guard import Budget, FetchFailed, unfit
from usam_core.sources.web.session import PoliteSession


def fetch(site, url, **changes):
    return PoliteSession(settings(site, **changes)).fetch(site.address(url), Budget(20, 10**8))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.8.8.8",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.1",
        "192.168.1.1",
        "198.18.0.1",
        "203.0.113.5",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001:db8::1",
        "fc00::1",
        "fd12::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_addresses_that_are_not_public(address):
    assert unfit(address)


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses(address):
    assert unfit(address) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0177.0.0.1", "localhost"])
def test_no_spelling_of_a_private_address_is_asked(site, host):
    with pytest.raises(FetchFailed, match="allow_hosts") as failed:
        fetch(site, f"http://{host}:{site.server_port}/img/1.jpg", allow_hosts=[])
    assert failed.value.code == "private_address"
    assert not site.visits


def test_a_host_is_allowed_with_its_port_only(site):
    assert fetch(site, "/img/1.jpg", allow_hosts=[f"127.0.0.1:{site.server_port}"]).body
    with pytest.raises(FetchFailed, match="loopback"):
        fetch(site, "/img/1.jpg", allow_hosts=["127.0.0.1:1"])


@pytest.mark.parametrize("host", ["localhost", "2130706433"])
def test_a_redirect_inside_is_not_followed(site, host):
    with pytest.raises(FetchFailed) as failed:
        fetch(site, f"/inside/{host}/1")
    assert failed.value.code == "private_address"
    assert list(site.counts) == [f"/inside/{host}/1"]


def test_a_name_that_leads_inside_is_not_asked(site, monkeypatch):
    """The name server gives a public address first: only the one connected to counts."""
    answers = iter(["93.184.216.34", "127.0.0.1"])

    def resolve(host, port, *_, **__):
        assert host == "rebound.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(self, address):
        raise ConnectionRefusedError(f"not in this test: {address}")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    url = f"http://rebound.example:{site.server_port}/img/1.jpg"
    with pytest.raises(FetchFailed) as failed:
        fetch(site, url, retries=0)
    assert failed.value.code == "unreachable"
    monkeypatch.undo()
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(FetchFailed) as failed:
        fetch(site, url, retries=0)
    assert failed.value.code == "private_address"
    assert not site.visits


@pytest.fixture
def certificate(tmp_path):
    """Return a file with a certificate for 127.0.0.1 that nobody has signed, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(private + signed.public_bytes(encoding))
    return str(file)


def test_the_same_holds_with_tls(site, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    url, budget = f"https://127.0.0.1:{site.server_port}", Budget(20, 10**8)

    def code(session, path):
        with pytest.raises(FetchFailed) as failed:
            session.fetch(url + path, budget)
        return failed.value.code

    assert code(PoliteSession(settings(site)), "/img/1.jpg") == "tls"
    session = PoliteSession(settings(site, timeout=0.7))
    session.verify = certificate
    for _ in range(2):
        assert session.fetch(f"{url}/img/1.jpg", budget).body == picture(1)
    assert code(session, "/drip/1") == "timeout"
    private = PoliteSession(settings(site, allow_hosts=[]))
    private.verify = certificate
    assert code(private, "/img/1.jpg") == "private_address"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "http://a:b@127.0.0.1/", "x", ""]
)
def test_only_plain_http_addresses(site, url):
    with pytest.raises(FetchFailed) as failed:
        PoliteSession(settings(site)).fetch(url, Budget(20, 10**8))
    assert failed.value.code == "bad_url"


def test_a_redirect_to_a_file_is_not_followed(site):
    with pytest.raises(FetchFailed, match="no http") as failed:
        fetch(site, "/elsewhere")
    assert failed.value.code == "bad_url"


def test_nothing_of_the_users_goes_along(site, monkeypatch, tmp_path):
    secrets = tmp_path / "netrc"
    secrets.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(secrets))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    session, budget = PoliteSession(settings(site)), Budget(20, 10**8)
    for number in (1, 2):
        session.fetch(f"{site.url}/img/{number}.jpg", budget)
    for _, _, headers in site.visits:
        assert set(headers) <= {"host", "user-agent", "accept", "accept-encoding", "connection"}
        assert headers["user-agent"].startswith("usam/")
        assert headers["user-agent"].endswith(" (+owner@example.org)")


@pytest.mark.parametrize(
    "address", ["192.0.0.192", "192.88.99.1", "168.63.129.16", "3fff::1", "192.0.0.8"]
)
def test_addresses_that_tables_forget_are_not_public(address):
    assert unfit(address) is not None
