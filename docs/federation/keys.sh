#!/usr/bin/env bash
# Makes the certificates and keys of a federation:
#
#     bash docs/federation/keys.sh FOLDER CLIENTS HOST...
#     bash docs/federation/keys.sh keys 3 federation.example.org 10.0.0.7
#
# ca.crt                      goes to every client; it proves the server to them
# server.pem, server.key      stay on the server; valid for localhost and the named hosts
# client0.key, client1.key... one goes to one client each, and nowhere else
# client0.pub, client1.pub... stay on the server, where `flwr supernode register` reads them
# ca.key                      signs further certificates; keep it off the network
#
# Certificates are valid for DAYS days (365); afterwards make new ones. Keys of clients do not expire: unregister a client
# to exclude it. Needs openssl 1.1.1 or newer and ssh-keygen.
set -euo pipefail

if [ $# -lt 2 ] || ! [[ $2 =~ ^[1-9][0-9]{0,3}$ ]]; then
    echo "expected FOLDER CLIENTS HOST..., for example: keys.sh keys 3 federation.example.org" >&2
    exit 2
fi
folder=$1 clients=$2 days=${DAYS:-365}
shift 2
if [ -e "$folder" ]; then
    echo "$folder exists; name a new folder, so that no key is replaced by accident" >&2
    exit 2
fi
names="DNS:localhost,IP:127.0.0.1"
for host in "$@"; do
    if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then names+=",IP:$host"; else names+=",DNS:$host"; fi
done

umask 077 # keys are for their owner alone
mkdir -p "$folder"
cd "$folder"
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -sha256 -days "$days" -subj "/CN=federation" -out ca.crt \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign"
openssl ecparam -name prime256v1 -genkey -noout -out server.key
openssl req -new -key server.key -subj "/CN=federation server" -out server.csr
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -sha256 -days "$days" -out server.pem \
    -extfile <(printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$names") 2>/dev/null
rm server.csr ca.srl
for ((number = 0; number < clients; number++)); do
    ssh-keygen -q -t ecdsa -b 384 -N "" -C "client$number" -f "client$number.key"
    mv "client$number.key.pub" "client$number.pub"
done
echo "written: $folder (certificates for $names, valid for $days days; $clients client keys)"
