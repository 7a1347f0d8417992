"""LangChain with Langfuse's callback handler; the model is a fake."""

from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langfuse import get_client
from langfuse.langchain import CallbackHandler

from measured import handler_of

callback = CallbackHandler()
prompt = ChatPromptTemplate.from_messages([("system", "Greet back."), ("user", "{greeting}")])


def record(name):
    chain = prompt | FakeListChatModel(responses=["Servus."]) | StrOutputParser()
    chain.invoke({"greeting": "Grüße?"}, config={"callbacks": [callback], "run_name": name})
    get_client().create_score(name=f"{name}-verdict", value=0.75, trace_id=callback.last_trace_id)


def trace():
    record("trace")


def flush():
    record("flush")
    get_client().flush()


def shutdown():
    record("shutdown")
    get_client().shutdown()


handler = handler_of({feature.__name__: feature for feature in (trace, flush, shutdown)})
