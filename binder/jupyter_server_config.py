"""Jupyter's server, set so that an explorable's answer is not held back on its way to the browser.

A kernel answers a moved slider with several small messages. By TCP's default (Nagle's algorithm) the second waits until
the browser has acknowledged the first, which browsers put off for 40 ms: more than the answer itself takes. `make` and
`postBuild` copy this file to the environment's `etc/jupyter`.
"""

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection


class SentAtOnce(ZMQChannelsWebsocketConnection):
    """Jupyter's own connection between a kernel and a browser, with TCP_NODELAY."""

    def connect(self):
        self.websocket_handler.set_nodelay(True)
        return super().connect()


c.ServerApp.kernel_websocket_connection_class = SentAtOnce  # noqa: F821 (Jupyter reads this file with `c` defined)
