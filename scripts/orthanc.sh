#!/usr/bin/env bash
# Starts and stops an Orthanc DICOM server with DICOMweb, for tests: on loopback, with all that it
# stores in FOLDER. Needs the Debian packages orthanc and orthanc-dicomweb.
#
#   scripts/orthanc.sh start FOLDER [OPTION...]     returns once it answers
#   scripts/orthanc.sh stop FOLDER                  what it stored stays; start goes on with it
#
#   --http PORT                 of DICOMweb, at /dicom-web (8142)
#   --dicom PORT                of DIMSE, as AE title ORTHANC (4342)
#   --user NAME:PASSWORD        ask for basic authentication
#   --tls CERTIFICATE           PEM with certificate and key, for DICOMweb
#   --dicom-tls CERT,KEY,CA     the same for DIMSE; peers need a certificate of the CA too
#   --peer AET:PORT             an AE title on this machine that may query, get, store and be moved
#                               to; NSAR:11112 unless given, may be repeated
set -euo pipefail

die() { printf 'error: %s\n' "$*" >&2; exit 1; }
[ $# -ge 2 ] || die "usage: scripts/orthanc.sh start|stop FOLDER [OPTION...]"
action=$1
folder=$2
shift 2

running() { [ -f "$folder/pid" ] && kill -0 "$(cat "$folder/pid")" 2>/dev/null; }

if [ "$action" = stop ]; then
    if running; then
        pid=$(cat "$folder/pid")
        kill "$pid"
        for _ in $(seq 200); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
        kill -9 "$pid" 2>/dev/null || true
    fi
    rm -f "$folder/pid"
    exit 0
fi
[ "$action" = start ] || die "start or stop, not $action"
running && die "Orthanc is running in $folder already"

http=8142 dicom=4342 users='' tls='' dicom_tls='' peers=()
while [ $# -gt 0 ]; do
    case $1 in
        --http) http=$2 ;;
        --dicom) dicom=$2 ;;
        --user) users="\"${2%%:*}\": \"${2#*:}\"" ;;
        --tls) tls=$(realpath "$2") ;;
        --dicom-tls) dicom_tls=$2 ;;
        --peer) peers+=("$2") ;;
        *) die "unknown option $1" ;;
    esac
    shift 2
done
[ ${#peers[@]} -gt 0 ] || peers=(NSAR:11112)

program=$(command -v Orthanc || echo /usr/sbin/Orthanc)
plugin=/usr/share/orthanc/plugins/libOrthancDicomWeb.so
[ -x "$program" ] && [ -e "$plugin" ] || die "install orthanc and orthanc-dicomweb first"

is() { [ -n "$1" ] && echo true || echo false; }
IFS=, read -r certificate key authority <<<"$dicom_tls,,"
modalities=''
for peer in "${peers[@]}"; do
    modalities+="${modalities:+, }\"peer-${peer%%:*}\": {\"AET\": \"${peer%%:*}\", \"Host\": \"127.0.0.1\",
        \"Port\": ${peer#*:}, \"AllowTranscoding\": false, \"UseDicomTls\": false}"
done
mkdir -p "$folder/storage"
cat >"$folder/orthanc.json" <<JSON
{
  "Name": "tests",
  "DefaultEncoding": "Utf8",
  "StorageDirectory": "$(realpath "$folder")/storage",
  "IndexDirectory": "$(realpath "$folder")/storage",
  "Plugins": ["$plugin"],
  "HttpPort": $http,
  "RemoteAccessAllowed": false,
  "AuthenticationEnabled": $(is "$users"),
  "RegisteredUsers": {$users},
  "SslEnabled": $(is "$tls"),
  "SslCertificate": "$tls",
  "DicomAet": "ORTHANC",
  "DicomPort": $dicom,
  "DicomCheckCalledAet": true,
  "DicomCheckModalityHost": true,
  "DicomAlwaysAllowEcho": true,
  "DicomAlwaysAllowStore": true,
  "DicomAlwaysAllowFind": false,
  "DicomAlwaysAllowGet": false,
  "DicomTlsEnabled": $(is "$dicom_tls"),
  "DicomTlsCertificate": "$certificate",
  "DicomTlsPrivateKey": "$key",
  "DicomTlsTrustedCertificates": "$authority",
  "DicomModalities": {$modalities},
  "OverwriteInstances": false,
  "StableAge": 1,
  "DicomWeb": {"Enable": true, "Root": "/dicom-web/", "EnableWado": true}
}
JSON

nohup "$program" "$folder/orthanc.json" >>"$folder/log" 2>&1 </dev/null &
echo $! >"$folder/pid"
for _ in $(seq 300); do
    # Any answer will do: it may be one that asks for a password.
    if (exec 3<>"/dev/tcp/127.0.0.1/$http") 2>/dev/null \
        && (exec 3<>"/dev/tcp/127.0.0.1/$dicom") 2>/dev/null; then
        echo "http$([ -z "$tls" ] || echo s)://127.0.0.1:$http/dicom-web dicom://ORTHANC@127.0.0.1:$dicom"
        exit 0
    fi
    running || { tail -n 5 "$folder/log" >&2; die "Orthanc did not start, see $folder/log"; }
    sleep 0.05
done
die "Orthanc did not answer, see $folder/log"
