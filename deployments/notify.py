"""Have the quality gate's verdict sent to a web address: an automation of the Prefect server.

    export PREFECT_API_URL=http://127.0.0.1:4200/api
    export PREFECT_API_AUTH_STRING="$(cat ~/.cache/usam/server/auth)"  # of `usam up`
    python deployments/notify.py --url https://...

The address gets a POST with the JSON body {"text": "..."}, which incoming webhooks of Slack,
Mattermost and others take. The text says which project did not pass, why, and where its run's page
is. Run it again to change the address; `--remove` takes the automation away. Both stand on the
page Automations of the server, where they can be paused.
"""

import argparse
from urllib.parse import urlsplit

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture

from tasks.report import GATE_EVENT

NAME = "usam-quality-gate"
TEXT = """\
{{ event.resource["prefect.resource.name"] }} did not pass the quality gate:
{% for reason in event.payload["reasons"] %}* {{ reason }}
{% endfor %}{{ flow_run|ui_url }}"""


def remove() -> bool:
    """Take the automation away; False if there was none."""
    try:
        return bool(Automation.read(name=NAME).delete())
    except ValueError:
        return False


def notify(url: str) -> None:
    """Send the gate's verdicts to `url` from now on."""
    block = CustomWebhookNotificationBlock(
        name=NAME, url=url, json_data={"text": "{{subject}}\n{{body}}"}
    )
    block_id = block.save(NAME, overwrite=True)
    remove()
    Automation(
        name=NAME,
        description="Sends the quality gate's reasons when a run of usam does not pass.",
        trigger=EventTrigger(
            expect={GATE_EVENT},
            # Each project by itself, and each verdict: two in one night are two messages.
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[SendNotification(block_document_id=block_id, subject="usam", body=TEXT)],
    ).create()


def main() -> None:
    """Parse the command line, and register or remove."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--url", help="where the notices go, http or https")
    what.add_argument("--remove", action="store_true", help="send none from now on")
    args = parser.parse_args()
    if args.remove:
        print("removed" if remove() else "there was none")
        return
    if urlsplit(args.url).scheme not in ("http", "https") or not urlsplit(args.url).hostname:
        parser.error(f"--url: got {args.url!r}; expected an address such as https://host/path")
    notify(args.url)
    print(f"verdicts of the quality gate go to {args.url}")


if __name__ == "__main__":
    main()
