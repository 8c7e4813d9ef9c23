# An actor that does what servers should not, each thing by its path. HTTP by hand.
import os, socket, sys, threading, time

listener = socket.create_server(("0.0.0.0", 8080), backlog=128)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
PATHS = {
    b"/": OK,
    # Half an answer.
    b"/half": b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nhalf",
    b"/junk": b"junk\r\n\r\n",
    b"/large-header": b"HTTP/1.1 200 OK\r\nX-Large: " + b"a" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
    b"/early": b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n" + OK,
    b"/old": b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"/nothing": b"",
}


def serve(connection):
    with connection:
        head = b""
        while b"\r\n\r\n" not in head:
            more = connection.recv(65536)
            if not more:
                return
            head += more
        path = head.split(b" ")[1]
        if path == b"/hang":
            time.sleep(1000)
        elif path == b"/exit":
            os._exit(1)
        elif path == b"/deaf":
            # No more connections: those that come are refused.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            connection.sendall(OK)
        else:
            connection.sendall(PATHS[path])
            connection.shutdown(socket.SHUT_WR)
            connection.recv(65536)


while True:
    try:
        connection, _ = listener.accept()
    except OSError:
        time.sleep(1000)
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
