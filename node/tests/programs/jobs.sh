# Variables of a shell, jobs in the background, pipes between them and an open file: each request takes one step.
set -eu
cd /tmp
nonce=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
seq 1 1000 > lines
exec 5< lines
mkfifo ask answer
exec 3<> ask 4<> answer

# One job counts, another one writes down what comes through the pipe.
echo 0 > ticks
(n=0; while :; do n=$((n + 1)); echo "$n"; sleep 0.1; done) |
  while read -r n; do echo "$n" > ticks.new; mv ticks.new ticks; done &

mkdir -p www/cgi-bin
cat > www/cgi-bin/ask <<'CGI'
#!/bin/sh
echo ask > /tmp/ask
read -r line < /tmp/answer
printf 'Content-Type: application/json\r\n\r\n%s\n' "$line"
CGI
chmod +x www/cgi-bin/ask
httpd -f -p 8080 -h www &

count=0
while read -r _ <&3; do
  count=$((count + 1))
  read -r line <&5
  echo "{\"nonce\":\"$nonce\",\"steps\":{\"count\":$count,\"line\":$line},\"ticks\":{\"job\":$(cat ticks)}}" >&4
done
