"""Makes a Lambda handler of named features, each of which is run once per invocation and timed."""

import time

IDLE_S = 0.3


def handler_of(features):
    """The event names a feature; the answer says what it returned and how long the handler waited for it."""

    def handler(event, _context):
        feature = (features | {"idle": idle})[event["feature"]]
        started = time.perf_counter()
        try:
            result = str(feature())
        except Exception as error:  # What the client throws at an app is a result, too.
            result = f"raised {type(error).__name__}: {error}"
        waited_ms = (time.perf_counter() - started) * 1000
        return {"result": result, "waited_ms": round(waited_ms, 1)}

    return handler


def idle():
    """Nothing, for long enough that the client's own threads run."""
    time.sleep(IDLE_S)
