#!/bin/sh
# An authority, and a certificate for each part of compose.yaml. For trying things out: the keys lie open to the containers.
set -eu
folder=${1:?a folder}
mkdir -p "$folder"
cd "$folder"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=weir trial" \
  -keyout ca.key -out ca.pem 2>/dev/null
issue() {
  name=$1 names=$2
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout "$name.key" -out "$name.csr" 2>/dev/null
  printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n' "$names" > "$name.ext"
  openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile "$name.ext" -out "$name.pem" 2>/dev/null
  rm "$name.csr" "$name.ext"
}
issue control DNS:control
issue gateway URI:spiffe://example.com/ns/default/sa/gateway
issue shop URI:spiffe://example.com/ns/default/sa/shop
# The containers are not root, and their user is none of this machine.
chmod 0644 ./*.key
rm ca.key
