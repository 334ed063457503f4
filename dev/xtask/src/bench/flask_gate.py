"""A list that learns, as a small Flask service does it: every request is a proof, X-Forwarded-For says of whom, the list
lives in memory, the oldest leaves a full one, and the whole file is written anew at each new address. One worker.
Settings: FILE, MAX_IPS."""
import ipaddress, os
import yaml
from flask import Flask, request

app = Flask(__name__)
path, most, learnt = os.environ["FILE"], int(os.environ["MAX_IPS"]), []


def write():
    middleware = {"ipAllowList": {"sourceRange": learnt + ["10.0.0.0/8"]}}
    with open(path, "w") as file:
        yaml.dump({"http": {"middlewares": {"bench": middleware}}}, file)


@app.route("/", defaults={"rest": ""}, methods=["GET", "POST"])
@app.route("/<path:rest>", methods=["GET", "POST"])
def learn(rest):
    address = request.headers.get("X-Forwarded-For", "")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return "OK"
    if address not in learnt:
        learnt.append(address)
        del learnt[:-most]
        write()
    return "OK"


write()
