"""The hotline's manual (SOP) as one table: what it does with a call, in the manual's order.

Theory of operation. A call is in one `State`. Something is `Heard` (a key, a prompt that ended, an agent who answered,
time that passed); ``step()`` looks the pair up in `SOP` and says the next state and what to `Do`. Nothing here waits,
reads a clock or knows Asterisk: ``ari_app.call`` hears and does. Because a step depends on nothing else, the ledger's
rows replay to the same end, and a caller's path can be read off the table with a finger.

A pair that has no row is heard late (a prompt that ended just as its caller pressed a key): nothing changes. Every
state but the last hears a hangup. What a question accepts is in `MENUS` and `ENTRIES`; three failures at one question,
or three rounds of identity, are the last. The caller is never told which element of an identity was wrong (SOP-2).

The value of each member is its name in Chinese, for ``docs/sop.zh.md``, which is generated from here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from ari_app.flow.identity import Element, Role
from ari_app.flow.keypad import LETTER_KEYS, Entry

TRIES = 3
"""Failures at one question, and rounds of identity, before the hotline stops asking. SOP-2."""
RATING_TRIES = 2
"""How a talk was is asked twice at most: whoever does not want to say it is not kept."""


class State(Enum):
    RINGING = "振铃"
    GREETING = "开场"
    ASKING_ROLE = "询问身份类别"
    LAWYER_FIRM = "律师：律所"
    LAWYER_NAME = "律师：姓名"
    LAWYER_LICENCE = "律师：执业证号后四位"
    LAWYER_NUMBER = "律师：是否用来电号码"
    LAWYER_MOBILE = "律师：登记手机号"
    PARTY_NUMBER = "当事人：是否用来电号码"
    PARTY_MOBILE = "当事人：手机号"
    PARTY_CASE = "当事人：案号后五位"
    PARTY_NAME = "当事人：姓名"
    CHECKING = "核身"
    FETCHING_CONTEXT = "调取案件"
    ASKING_NEED = "询问需求"
    ADMITTING = "受理"
    WAITING = "排队"
    OFFERING = "呼叫座席"
    WHISPERING = "座席耳语"
    TALKING = "通话"
    CONSULT_RINGING = "请教：等二线接听"
    CONSULTING = "请教：座席与二线通话"
    CONSULT_SWAPPED = "请教：座席回到来电人"
    THREE_WAY = "三方通话"
    TRANSFERRING = "转二线"
    TRANSFERRING_TO_AGENT = "转指定座席"
    RATING = "满意度评价"
    RATING_REASON = "说明原因"
    CLOSING = "结束语"
    LEAVING = "等待挂机"
    AFTER_HOURS = "非工作时间"
    SELF_SERVICE = "自助查询"
    LEAVING_MESSAGE = "留言"
    CALLBACK_OFFERED = "队列已满：建议回电"
    CALLBACK_NUMBER = "回电：核对号码"
    CALLBACK_ENTRY = "回电：输入号码"
    CALLBACK_WINDOW = "回电：选择时段"
    CALLING_AGENT = "外呼：呼叫座席"
    BRIEFING = "外呼：座席耳语"
    CALLING_OUT = "外呼：呼叫对方"
    NOT_REACHED = "外呼：未接通"
    OVERTIME = "超时结束语"
    ENDED = "结束"


class Need(Enum):
    MILESTONE = "节点"
    MATERIAL = "材料"
    TIME = "时间"
    PRESSING = "情绪"


class Heard(Enum):
    RANG_ENOUGH = "振铃够数"
    PROMPT_ENDED = "语音播完"
    SAID_LAWYER = "选择律师"
    SAID_PARTY = "选择当事人"
    WANTS_A_PERSON = "按零转人工"
    NO_NUMBER_TO_OFFER = "来电号码不是手机"
    OWN_NUMBER = "用来电号码"
    OTHER_NUMBER = "用其他号码"
    ENTERED = "输入完成"
    ENTRY_CLEARED = "按星号重来"
    ENTRY_INVALID = "输入有误"
    NO_ENTRY = "没有输入"
    ENTRY_GIVEN_UP = "三次未成"
    IDENTITY_PROVEN = "核身通过"
    IDENTITY_NOT_PROVEN = "核身未通过"
    IDENTITY_GIVEN_UP = "三轮核身未通过"
    IDENTITY_UNAVAILABLE = "核身系统不可用"
    CONTEXT_CAME = "案件已调取"
    CONTEXT_FAILED = "案件调取失败"
    SAID_MILESTONE = "需求：节点"
    SAID_MATERIAL = "需求：材料"
    SAID_TIME = "需求：时间"
    SAID_PRESSING = "需求：紧急"
    ADMITTED = "可以受理"
    ANNOUNCEMENT_DUE = "到播报时间"
    AGENT_RESERVED = "分配到座席"
    AGENT_ANSWERED = "座席接听"
    AGENT_REFUSED = "座席拒接"
    AGENT_BUSY = "座席忙线"
    AGENT_NO_ANSWER = "座席三声未接"
    AGENT_UNREACHABLE = "座席话机离线"
    WHISPER_ENDED = "耳语播完"
    AGENT_LEFT = "座席挂机"
    AGENT_LOST = "座席未及接通"
    OFFER_LOST = "呼叫丢失"
    DISCLAIMER_ASKED = "座席按 *5"
    CLOSING_ASKED = "座席按 *6"
    CONSULT_ASKED = "座席请教二线"
    SWAP_ASKED = "座席切换"
    THREE_WAY_ASKED = "座席要三方通话"
    HAND_OVER_ASKED = "座席交给二线"
    TAKEN_OVER = "班长接管"
    BACK_ASKED = "座席回到来电人"
    TRANSFER_TO_PARTY_LINE = "座席转当事人线"
    TRANSFER_TO_LAWYER_LINE = "座席转律师线"
    TRANSFER_TO_SECOND_LINE = "座席转二线"
    TRANSFER_TO_AGENT = "座席转指定座席"
    TRANSFER_NOT_POSSIBLE = "座席要转的人不空闲"
    SECOND_LEFT = "二线挂机"
    SECOND_LATE = "二线到时无人"
    RATING_NOT_ASKED = "不询问评价"
    RATED_1 = "评一分"
    RATED_2 = "评两分"
    RATED_3 = "评三分"
    RATED_4 = "评四分"
    RATED_5 = "评五分"
    REASON_GIVEN = "原因说完"
    FIVE_SECONDS_PASSED = "五秒已过"
    CEILING_NEAR = "离通话上限一分钟"
    CEILING_REACHED = "到通话上限"
    HUNG_UP = "来电人挂机"
    LINE_LOST = "线路中断"
    CLOSED_NOW = "不在工作时间"
    WANTS_CASE_STATUS = "要查案件进展"
    IDENTITY_WANTED = "尚未核身"
    IDENTITY_REFUSED = "不能再核身"
    PROVEN_OUTSIDE_HOURS = "非工作时间核身通过"
    UNPROVEN_OUTSIDE_HOURS = "非工作时间核身未成"
    CASES_FOUND = "查到案件进展"
    CASES_UNAVAILABLE = "案件进展不可用"
    HEAR_AGAIN = "再听一遍"
    GO_BACK = "返回"
    WANTS_TO_LEAVE_MESSAGE = "要留言"
    MESSAGE_LEFT = "留言结束"
    MESSAGE_EMPTY = "留言无声"
    MESSAGE_FAILED = "无法录音"
    QUEUE_FULL = "队列已满"
    NOBODY_SIGNED_IN = "无座席在线"
    LONGEST_WAIT_REACHED = "到最长等待时间"
    WANTS_CALLBACK = "要回电"
    NUMBER_RIGHT = "回电号码正确"
    SAID_ANY_TIME = "随时可回电"
    SAID_MORNING = "上午回电"
    SAID_AFTERNOON = "下午回电"
    CALL_PLACED = "发起外呼"
    OUTSIDE_ANSWERED = "对方接听"
    OUTSIDE_BUSY = "对方忙线"
    OUTSIDE_NO_ANSWER = "对方无人接听"
    OUTSIDE_REFUSED = "对方拒接"
    OUTSIDE_UNREACHABLE = "对方无法接通"
    RESUMED = "控制程序恢复"
    JOIN_CUT = "接通时中断"


class Do(Enum):
    ANSWER = "接听"
    SAY_RECORDING_NOTICE = "播放录音告知"
    SAY_OPENING = "播放开场白"
    ASK = "提问"
    LISTEN = "收按键"
    OFFER_OWN_NUMBER = "看来电号码能否使用"
    TAKE_ANSWER = "记下输入"
    TAKE_OWN_NUMBER = "记下来电号码"
    SAY_INVALID = "提示输入有误"
    SAY_MISSING = "提示没有输入"
    SAY_CLEARED = "提示重新输入"
    CHECK_IDENTITY = "核对各项"
    FETCH_CONTEXT = "经 AGI 调取案件"
    SAY_PROVEN = "提示核身通过"
    SAY_RETRY = "提示重新核对"
    SAY_CANNOT_VERIFY = "提示未能核实"
    SAY_CHECK_UNAVAILABLE = "提示暂时无法核对"
    SAY_INTERRUPTED = "为中断致歉"
    ADMIT = "查看能否受理"
    SAY_TRANSFERRING = "提示正在转接"
    JOIN_QUEUE = "进入队列"
    LEAVE_QUEUE = "离开队列"
    PLAY_MUSIC = "播放等待音乐"
    SAY_POSITION = "播报位置和等待时间"
    RING_AGENT = "呼叫座席话机"
    CANCEL_OFFER = "取消呼叫座席"
    FREE_AGENT = "座席恢复空闲"
    PAUSE_AGENT = "座席置为未接暂停"
    REJOIN_QUEUE = "回到原位"
    WHISPER = "向座席耳语"
    JOIN_AGENT = "接通座席"
    SAY_AGENT_OPENING = "播放工号开场白"
    SAY_DISCLAIMER = "播放风险提示"
    RELEASE_AGENT = "座席转话后处理"
    ARRANGE = "安排各方听说"
    SEEK_SECOND = "寻找二线"
    LEAVE_SECOND_QUEUE = "不再寻找二线"
    RING_SECOND = "呼叫二线话机"
    CANCEL_SECOND = "取消呼叫二线"
    FREE_SECOND = "二线恢复空闲"
    PAUSE_SECOND = "二线置为未接暂停"
    WHISPER_SECOND = "向二线耳语"
    RELEASE_SECOND = "二线转话后处理"
    HAND_OVER = "来电人交给二线"
    OPEN_SECOND_ORDER = "派单给二线"
    SAY_TO_SECOND_LINE = "提示正在转接二线"
    SAY_SECOND_LATE = "提示二线将回复"
    SAY_NOT_POSSIBLE = "提示对方无法接听"
    OFFER_RATING = "看是否询问评价"
    ASK_REASON = "询问不满意的原因"
    HEAR_REASON = "听取原因"
    END_REASON = "停止听取"
    SAY_REASON_NOTED = "提示原因已记下"
    SAY_CLOSING = "播放结束语"
    GIVE_FIVE_SECONDS = "等待五秒"
    SAY_CEILING_NEAR = "提示还有一分钟"
    HANG_UP = "挂机"
    SAY_CLOSED = "提示非工作时间"
    SAY_IDENTITY_FIRST = "提示先核身"
    SAY_NO_STATUS = "提示不能告知案件"
    LOOK_UP_CASES = "查案件进展"
    SAY_CASES = "播报案件进展"
    SAY_CASES_UNAVAILABLE = "提示案件进展不可用"
    SAY_LEAVE_MESSAGE = "请留言并响提示音"
    RECORD_MESSAGE = "录下留言"
    TAKE_MESSAGE = "留言存档并派单"
    SAY_MESSAGE_EMPTY = "提示没有听到并再响提示音"
    SAY_MESSAGE_GIVEN_UP = "提示没有听到留言"
    SAY_MESSAGE_FAILED = "提示无法留言"
    SAY_MESSAGE_NOTED = "提示留言已收到"
    SAY_NOBODY_SIGNED_IN = "提示无座席在线"
    SAY_LONGEST_WAIT = "提示等待已久并建议回电"
    OFFER_CALLBACK_NUMBER = "读出回电号码"
    TAKE_CALLBACK_NUMBER = "记下回电号码"
    NOTE_CALLBACK = "登记回电"
    SAY_CALLBACK_NOTED = "提示回电已登记"
    CALL_OUT = "呼叫对方"
    MEET = "与对方接通"
    TELL_NOT_REACHED = "告知座席未接通"
    GIVE_UP_CALLING = "不再呼叫对方"


QUESTIONS: dict[State, tuple[str, ...]] = {
    State.ASKING_ROLE: ("ask-role",),
    State.LAWYER_FIRM: ("ask-firm",),
    State.LAWYER_NAME: ("ask-name",),
    State.LAWYER_LICENCE: ("ask-licence",),
    State.LAWYER_NUMBER: ("ask-own-number",),
    State.LAWYER_MOBILE: ("ask-mobile",),
    State.PARTY_NUMBER: ("ask-own-number",),
    State.PARTY_MOBILE: ("ask-mobile",),
    State.PARTY_CASE: ("ask-case",),
    State.PARTY_NAME: ("ask-name",),
    State.ASKING_NEED: ("ask-need",),
    State.AFTER_HOURS: ("ask-after-hours",),
    State.SELF_SERVICE: ("ask-again",),
    State.CALLBACK_OFFERED: ("queue-full",),
    State.CALLBACK_NUMBER: ("callback-number-is", "callback-confirm"),
    State.CALLBACK_ENTRY: ("callback-ask-number",),
    State.CALLBACK_WINDOW: ("callback-ask-window",),
    State.RATING: ("ask-rating",),
}
"""What each asking state says: ids of the approved wording. SCR-1."""

MENUS: dict[State, dict[str, Heard]] = {
    State.GREETING: {"1": Heard.SAID_LAWYER, "2": Heard.SAID_PARTY},
    State.ASKING_ROLE: {"1": Heard.SAID_LAWYER, "2": Heard.SAID_PARTY},
    State.LAWYER_NUMBER: {"1": Heard.OWN_NUMBER, "2": Heard.OTHER_NUMBER},
    State.PARTY_NUMBER: {"1": Heard.OWN_NUMBER, "2": Heard.OTHER_NUMBER},
    State.ASKING_NEED: {
        "1": Heard.SAID_MILESTONE, "2": Heard.SAID_MATERIAL, "3": Heard.SAID_TIME, "4": Heard.SAID_PRESSING,
    },
    State.AFTER_HOURS: {
        "1": Heard.WANTS_CASE_STATUS, "2": Heard.WANTS_TO_LEAVE_MESSAGE, "3": Heard.WANTS_CALLBACK,
    },
    State.SELF_SERVICE: {"1": Heard.HEAR_AGAIN, "2": Heard.GO_BACK},
    State.WAITING: {"1": Heard.WANTS_CALLBACK},
    State.CALLBACK_OFFERED: {"1": Heard.WANTS_CALLBACK},
    State.CALLBACK_NUMBER: {"1": Heard.NUMBER_RIGHT, "2": Heard.OTHER_NUMBER},
    State.CALLBACK_WINDOW: {"1": Heard.SAID_ANY_TIME, "2": Heard.SAID_MORNING, "3": Heard.SAID_AFTERNOON},
    State.RATING: {
        "1": Heard.RATED_1, "2": Heard.RATED_2, "3": Heard.RATED_3, "4": Heard.RATED_4, "5": Heard.RATED_5,
    },
    State.RATING_REASON: {"#": Heard.REASON_GIVEN},
    State.CLOSING: {},
    State.LEAVING: {},
}  # fmt: skip
"""States in which one key is an answer. 0 is a person in all of them, and in the entries below; who waits has asked for
one already.
"""

ENTRIES: dict[State, Entry] = {
    State.LAWYER_FIRM: Entry(2, 24, keys=LETTER_KEYS),
    State.LAWYER_NAME: Entry(2, 12, keys=LETTER_KEYS),
    State.LAWYER_LICENCE: Entry(4, 4),
    State.LAWYER_MOBILE: Entry(11, 11, first="1"),
    State.PARTY_MOBILE: Entry(11, 11, first="1"),
    State.PARTY_CASE: Entry(5, 5),
    State.PARTY_NAME: Entry(2, 12, keys=LETTER_KEYS),
    State.CALLBACK_ENTRY: Entry(10, 12, first="01"),
}
"""States in which several keys, ended by #, are an answer. SOP-2."""

ELEMENTS: dict[State, Element] = {
    State.LAWYER_FIRM: Element.FIRM,
    State.LAWYER_NAME: Element.NAME,
    State.LAWYER_LICENCE: Element.LICENCE,
    State.LAWYER_MOBILE: Element.MOBILE,
    State.PARTY_MOBILE: Element.MOBILE,
    State.PARTY_CASE: Element.CASE,
    State.PARTY_NAME: Element.NAME,
}
"""Which element of an identity each entry is."""

NEEDS: dict[Heard, Need] = {
    Heard.SAID_MILESTONE: Need.MILESTONE,
    Heard.SAID_MATERIAL: Need.MATERIAL,
    Heard.SAID_TIME: Need.TIME,
    Heard.SAID_PRESSING: Need.PRESSING,
}

ANYWHERE = tuple(state for state in State if state is not State.ENDED)
ASKING = tuple(QUESTIONS)
OFFERING_CALLBACK = (State.CALLBACK_OFFERED, State.CALLBACK_NUMBER, State.CALLBACK_ENTRY, State.CALLBACK_WINDOW)
NOT_IDENTIFYING = (
    State.ASKING_ROLE, State.ASKING_NEED, State.AFTER_HOURS, State.SELF_SERVICE, *OFFERING_CALLBACK, State.RATING,
)  # fmt: skip
IDENTIFYING = tuple(state for state in ASKING if state not in NOT_IDENTIFYING)
QUEUED = (State.WAITING, State.OFFERING, State.WHISPERING)
PLACING = (State.CALLING_AGENT, State.BRIEFING, State.CALLING_OUT, State.NOT_REACHED)
"""States of a call that we place, before both are on the line."""
UNTIMED = (State.RINGING, State.FETCHING_CONTEXT, State.CLOSING, State.LEAVING, State.OVERTIME, *PLACING)
"""States that are over in seconds by themselves: the ceiling on the whole call waits for the next one."""

CONSULTED = (State.CONSULTING, State.CONSULT_SWAPPED, State.THREE_WAY)
"""States in which an agent of the second line is there, too."""
SEEKING = (State.CONSULT_RINGING, State.TRANSFERRING, State.TRANSFERRING_TO_AGENT)
"""States in which one is sought, rung and whispered to."""
SERVED = (State.TALKING, State.CONSULT_RINGING, *CONSULTED)
"""States in which an agent has the caller. AGT-6."""

RATED: dict[Heard, int] = {
    Heard.RATED_1: 1, Heard.RATED_2: 2, Heard.RATED_3: 3, Heard.RATED_4: 4, Heard.RATED_5: 5,
}  # fmt: skip
"""Scores of the survey after a talk. KPI-7."""
LOW = ((State.RATING, Heard.RATED_1), (State.RATING, Heard.RATED_2))
"""Scores that ask for a reason, and that the team leader looks after."""

Row = tuple[State, tuple[Do, ...]]

TO_DESK: Row = (State.ADMITTING, (Do.ADMIT,))
TALK_OVER: Row = (State.RATING, (Do.RELEASE_AGENT, Do.OFFER_RATING))
TO_CLOSING: Row = (State.CLOSING, (Do.SAY_CLOSING, Do.LISTEN))
NOT_TAKEN = (
    Heard.AGENT_REFUSED,
    Heard.AGENT_BUSY,
    Heard.AGENT_NO_ANSWER,
    Heard.AGENT_UNREACHABLE,
    Heard.SECOND_LEFT,
)
"""How an offer to the second line fails."""
NO_SECOND = (Do.CANCEL_SECOND, Do.FREE_SECOND, Do.LEAVE_SECOND_QUEUE)
"""Nobody of the second line is sought any more."""
LET_GO: dict[State, tuple[Do, ...]] = {
    State.CONSULT_RINGING: (*NO_SECOND, Do.RELEASE_AGENT),
    **dict.fromkeys(CONSULTED, (Do.RELEASE_SECOND, Do.RELEASE_AGENT)),
    **dict.fromkeys((State.TRANSFERRING, State.TRANSFERRING_TO_AGENT), NO_SECOND),
}
"""Of the second line, when the caller is gone or the call has lasted long enough."""
TO_CALLBACK: Row = (State.CLOSING, (Do.NOTE_CALLBACK, Do.SAY_CALLBACK_NOTED, Do.SAY_CLOSING, Do.LISTEN))
NOT_PLACED: Row = (State.ENDED, (Do.CANCEL_OFFER, Do.FREE_AGENT))
"""A call that we place comes to nothing: its agent is free."""
UNVERIFIED: Row = (State.ASKING_NEED, (Do.SAY_CANNOT_VERIFY, Do.ASK))

GONE: dict[State, Row] = {
    **dict.fromkeys(ANYWHERE, (State.ENDED, ())),
    State.WAITING: (State.ENDED, (Do.LEAVE_QUEUE,)),
    State.OFFERING: (State.ENDED, (Do.CANCEL_OFFER, Do.FREE_AGENT, Do.LEAVE_QUEUE)),
    State.WHISPERING: (State.ENDED, (Do.CANCEL_OFFER, Do.FREE_AGENT, Do.LEAVE_QUEUE)),
    State.TALKING: (State.ENDED, (Do.RELEASE_AGENT,)),
    **dict.fromkeys(PLACING, NOT_PLACED),
    **{state: (State.ENDED, let_go) for state, let_go in LET_GO.items()},
}
"""What is let go of when the caller is gone."""

SOP: dict[tuple[State, Heard], Row] = {
    # 1. Answered within three rings; recording notice and opening. SOP-1
    (State.RINGING, Heard.RANG_ENOUGH): (
        State.GREETING,
        (Do.ANSWER, Do.SAY_RECORDING_NOTICE, Do.SAY_OPENING, Do.LISTEN),
    ),
    # 2. Who is calling: a lawyer, a party, or someone who wants a person
    (State.GREETING, Heard.PROMPT_ENDED): (State.ASKING_ROLE, (Do.ASK,)),
    **{
        row: to
        for state in (State.GREETING, State.ASKING_ROLE)
        for row, to in {
            (state, Heard.SAID_LAWYER): (State.LAWYER_FIRM, (Do.ASK,)),
            (state, Heard.SAID_PARTY): (State.PARTY_NUMBER, (Do.OFFER_OWN_NUMBER,)),
        }.items()
    },
    (State.GREETING, Heard.ENTRY_INVALID): (State.ASKING_ROLE, (Do.SAY_INVALID, Do.ASK)),
    (State.GREETING, Heard.ENTRY_CLEARED): (State.ASKING_ROLE, (Do.ASK,)),
    (State.ASKING_ROLE, Heard.ENTRY_GIVEN_UP): TO_DESK,
    # 3. A lawyer: firm, name, last four of the licence, registered mobile. SOP-2
    (State.LAWYER_FIRM, Heard.ENTERED): (State.LAWYER_NAME, (Do.TAKE_ANSWER, Do.ASK)),
    (State.LAWYER_NAME, Heard.ENTERED): (State.LAWYER_LICENCE, (Do.TAKE_ANSWER, Do.ASK)),
    (State.LAWYER_LICENCE, Heard.ENTERED): (State.LAWYER_NUMBER, (Do.TAKE_ANSWER, Do.OFFER_OWN_NUMBER)),
    (State.LAWYER_NUMBER, Heard.NO_NUMBER_TO_OFFER): (State.LAWYER_MOBILE, (Do.ASK,)),
    (State.LAWYER_NUMBER, Heard.OTHER_NUMBER): (State.LAWYER_MOBILE, (Do.ASK,)),
    (State.LAWYER_NUMBER, Heard.OWN_NUMBER): (State.CHECKING, (Do.TAKE_OWN_NUMBER, Do.CHECK_IDENTITY)),
    (State.LAWYER_MOBILE, Heard.ENTERED): (State.CHECKING, (Do.TAKE_ANSWER, Do.CHECK_IDENTITY)),
    # 4. A party: mobile (the caller's own is offered first), last five of the case number, name. SOP-2
    (State.PARTY_NUMBER, Heard.NO_NUMBER_TO_OFFER): (State.PARTY_MOBILE, (Do.ASK,)),
    (State.PARTY_NUMBER, Heard.OTHER_NUMBER): (State.PARTY_MOBILE, (Do.ASK,)),
    (State.PARTY_NUMBER, Heard.OWN_NUMBER): (State.PARTY_CASE, (Do.TAKE_OWN_NUMBER, Do.ASK)),
    (State.PARTY_MOBILE, Heard.ENTERED): (State.PARTY_CASE, (Do.TAKE_ANSWER, Do.ASK)),
    (State.PARTY_CASE, Heard.ENTERED): (State.PARTY_NAME, (Do.TAKE_ANSWER, Do.ASK)),
    (State.PARTY_NAME, Heard.ENTERED): (State.CHECKING, (Do.TAKE_ANSWER, Do.CHECK_IDENTITY)),
    # 5. Every question: wrong or no keys, asked again; the third time the hotline goes on without. SOP-2
    **{
        row: to
        for state in ASKING
        for row, to in {
            (state, Heard.ENTRY_INVALID): (state, (Do.SAY_INVALID, Do.ASK)),
            (state, Heard.NO_ENTRY): (state, (Do.SAY_MISSING, Do.ASK)),
            (state, Heard.ENTRY_CLEARED): (state, (Do.SAY_CLEARED, Do.LISTEN) if state in ENTRIES else (Do.ASK,)),
        }.items()
    },
    **{(state, Heard.ENTRY_GIVEN_UP): UNVERIFIED for state in IDENTIFYING},
    # 6. All elements are checked together; one missing or wrong and nothing of the case is told. SOP-2
    (State.CHECKING, Heard.IDENTITY_PROVEN): (State.FETCHING_CONTEXT, (Do.FETCH_CONTEXT,)),
    (State.CHECKING, Heard.IDENTITY_NOT_PROVEN): (State.ASKING_ROLE, (Do.SAY_RETRY, Do.ASK)),
    (State.CHECKING, Heard.IDENTITY_GIVEN_UP): UNVERIFIED,
    (State.CHECKING, Heard.IDENTITY_UNAVAILABLE): (State.ASKING_NEED, (Do.SAY_CHECK_UNAVAILABLE, Do.ASK)),
    (State.FETCHING_CONTEXT, Heard.CONTEXT_CAME): (State.ASKING_NEED, (Do.SAY_PROVEN, Do.ASK)),
    (State.FETCHING_CONTEXT, Heard.CONTEXT_FAILED): (State.ASKING_NEED, (Do.SAY_PROVEN, Do.ASK)),
    # 7. The need, as one of four kinds. SOP-3
    **{(State.ASKING_NEED, said): TO_DESK for said in NEEDS},
    (State.ASKING_NEED, Heard.ENTRY_GIVEN_UP): TO_DESK,
    # 7a. Every way to an agent is asked first whether the desk takes callers now: the answer comes at once
    (State.ADMITTING, Heard.ADMITTED): (State.WAITING, (Do.SAY_TRANSFERRING, Do.JOIN_QUEUE)),
    # 8. Waiting: music, and every 30 s the position and the expected wait
    **{
        row: to
        for state in QUEUED
        for row, to in {
            (state, Heard.PROMPT_ENDED): (state, (Do.PLAY_MUSIC,)),
            (state, Heard.ANNOUNCEMENT_DUE): (state, (Do.SAY_POSITION,)),
        }.items()
    },
    # 8a. A full queue, or nobody there: it is said, and a callback offered. Who asks for one keeps the place
    (State.ADMITTING, Heard.QUEUE_FULL): (State.CALLBACK_OFFERED, (Do.ASK,)),
    (State.ADMITTING, Heard.NOBODY_SIGNED_IN): (State.WAITING, (Do.SAY_NOBODY_SIGNED_IN, Do.JOIN_QUEUE)),
    (State.WAITING, Heard.LONGEST_WAIT_REACHED): (State.WAITING, (Do.SAY_LONGEST_WAIT,)),
    (State.WAITING, Heard.WANTS_CALLBACK): (State.CALLBACK_NUMBER, (Do.LEAVE_QUEUE, Do.OFFER_CALLBACK_NUMBER)),
    (State.CALLBACK_OFFERED, Heard.WANTS_CALLBACK): (State.CALLBACK_NUMBER, (Do.OFFER_CALLBACK_NUMBER,)),
    (State.AFTER_HOURS, Heard.WANTS_CALLBACK): (State.CALLBACK_NUMBER, (Do.OFFER_CALLBACK_NUMBER,)),
    (State.CALLBACK_OFFERED, Heard.ENTRY_GIVEN_UP): (State.CLOSING, (Do.SAY_CLOSING, Do.LISTEN)),
    (State.CALLBACK_NUMBER, Heard.NUMBER_RIGHT): (State.CALLBACK_WINDOW, (Do.ASK,)),
    (State.CALLBACK_NUMBER, Heard.OTHER_NUMBER): (State.CALLBACK_ENTRY, (Do.ASK,)),
    (State.CALLBACK_NUMBER, Heard.NO_NUMBER_TO_OFFER): (State.CALLBACK_ENTRY, (Do.ASK,)),
    (State.CALLBACK_ENTRY, Heard.ENTERED): (
        State.CALLBACK_NUMBER,
        (Do.TAKE_CALLBACK_NUMBER, Do.OFFER_CALLBACK_NUMBER),
    ),
    (State.CALLBACK_NUMBER, Heard.ENTRY_GIVEN_UP): TO_DESK,
    (State.CALLBACK_ENTRY, Heard.ENTRY_GIVEN_UP): TO_DESK,
    **{
        (State.CALLBACK_WINDOW, said): TO_CALLBACK
        for said in (Heard.SAID_ANY_TIME, Heard.SAID_MORNING, Heard.SAID_AFTERNOON, Heard.ENTRY_GIVEN_UP)
    },
    # 9. An agent's phone rings at most three rings; if it is not answered the offer goes on (RONA). SOP-1
    (State.WAITING, Heard.AGENT_RESERVED): (State.OFFERING, (Do.RING_AGENT,)),
    **{
        (State.OFFERING, failed): (State.WAITING, (Do.CANCEL_OFFER, Do.PAUSE_AGENT, Do.REJOIN_QUEUE))
        for failed in (
            Heard.AGENT_REFUSED,
            Heard.AGENT_BUSY,
            Heard.AGENT_NO_ANSWER,
            Heard.AGENT_UNREACHABLE,
            Heard.AGENT_LEFT,
        )
    },
    (State.OFFERING, Heard.OFFER_LOST): (State.WAITING, (Do.CANCEL_OFFER, Do.FREE_AGENT, Do.REJOIN_QUEUE)),
    (State.OFFERING, Heard.AGENT_ANSWERED): (State.WHISPERING, (Do.WHISPER,)),
    (State.WHISPERING, Heard.AGENT_LEFT): (State.WAITING, (Do.CANCEL_OFFER, Do.PAUSE_AGENT, Do.REJOIN_QUEUE)),
    (State.WHISPERING, Heard.WHISPER_ENDED): (
        State.TALKING,
        (Do.LEAVE_QUEUE, Do.JOIN_AGENT, Do.SAY_AGENT_OPENING),
    ),
    (State.TALKING, Heard.AGENT_LOST): (
        State.WAITING,
        (Do.CANCEL_OFFER, Do.PAUSE_AGENT, Do.REJOIN_QUEUE, Do.PLAY_MUSIC),
    ),
    # 10. Talking; the disclaimer whenever odds, dates or damages come up. SOP-5
    (State.TALKING, Heard.DISCLAIMER_ASKED): (State.TALKING, (Do.SAY_DISCLAIMER,)),
    # 10a. The second line: an agent asks a lawyer on duty while the caller hears music; speaks with either in turn, all
    #      three together, hands over or comes back. Who hangs up leaves the caller to the other. SOP-4, AGT-6
    (State.TALKING, Heard.CONSULT_ASKED): (State.CONSULT_RINGING, (Do.ARRANGE, Do.SEEK_SECOND)),
    **{
        row: to
        for state in (State.CONSULT_RINGING, State.TRANSFERRING)
        for row, to in {
            (state, Heard.AGENT_RESERVED): (state, (Do.RING_SECOND,)),
            (state, Heard.OFFER_LOST): (state, (Do.CANCEL_SECOND, Do.FREE_SECOND, Do.SEEK_SECOND)),
            **{(state, failed): (state, (Do.CANCEL_SECOND, Do.PAUSE_SECOND, Do.SEEK_SECOND)) for failed in NOT_TAKEN},
        }.items()
    },
    **{(state, Heard.AGENT_ANSWERED): (state, (Do.WHISPER_SECOND,)) for state in SEEKING},
    (State.CONSULT_RINGING, Heard.WHISPER_ENDED): (State.CONSULTING, (Do.LEAVE_SECOND_QUEUE, Do.ARRANGE)),
    (State.CONSULT_RINGING, Heard.BACK_ASKED): (State.TALKING, (*NO_SECOND, Do.ARRANGE)),
    (State.CONSULT_RINGING, Heard.SECOND_LATE): (
        State.TALKING,
        (*NO_SECOND, Do.OPEN_SECOND_ORDER, Do.ARRANGE, Do.SAY_SECOND_LATE),
    ),
    **{
        (State.CONSULT_RINGING, heard): (State.TRANSFERRING, (Do.RELEASE_AGENT, Do.PLAY_MUSIC))
        for heard in (Heard.HAND_OVER_ASKED, Heard.AGENT_LEFT)
    },
    **{
        row: to
        for state in CONSULTED
        for row, to in {
            (state, Heard.THREE_WAY_ASKED): (State.THREE_WAY, (Do.ARRANGE,)),
            (state, Heard.BACK_ASKED): (State.TALKING, (Do.RELEASE_SECOND, Do.ARRANGE)),
            (state, Heard.SECOND_LEFT): (State.TALKING, (Do.RELEASE_SECOND, Do.ARRANGE)),
            (state, Heard.HAND_OVER_ASKED): (State.TALKING, (Do.RELEASE_AGENT, Do.HAND_OVER, Do.ARRANGE)),
            (state, Heard.AGENT_LEFT): (State.TALKING, (Do.RELEASE_AGENT, Do.HAND_OVER, Do.ARRANGE)),
        }.items()
    },
    (State.CONSULTING, Heard.SWAP_ASKED): (State.CONSULT_SWAPPED, (Do.ARRANGE,)),
    (State.CONSULT_SWAPPED, Heard.SWAP_ASKED): (State.CONSULTING, (Do.ARRANGE,)),
    (State.THREE_WAY, Heard.SWAP_ASKED): (State.CONSULTING, (Do.ARRANGE,)),
    **{
        row: to
        for state in (State.CONSULT_SWAPPED, State.THREE_WAY)
        for row, to in {
            (state, Heard.DISCLAIMER_ASKED): (state, (Do.SAY_DISCLAIMER,)),
            (state, Heard.CLOSING_ASKED): (TALK_OVER[0], (Do.RELEASE_SECOND, *TALK_OVER[1])),
        }.items()
    },
    # 10b. A leader or mentor who has come into the talk goes on with the caller; the agent is let go. AGT-5
    (State.TALKING, Heard.TAKEN_OVER): (State.TALKING, (Do.RELEASE_AGENT, Do.HAND_OVER, Do.ARRANGE)),
    # 10c. Handed on without asking: to the second line, to a line's queue, or to one agent who is free
    (State.TALKING, Heard.TRANSFER_TO_SECOND_LINE): (
        State.TRANSFERRING,
        (Do.RELEASE_AGENT, Do.SAY_TO_SECOND_LINE, Do.SEEK_SECOND),
    ),
    **{
        (State.TALKING, heard): (TO_DESK[0], (Do.RELEASE_AGENT, *TO_DESK[1]))
        for heard in (Heard.TRANSFER_TO_PARTY_LINE, Heard.TRANSFER_TO_LAWYER_LINE)
    },
    (State.TALKING, Heard.TRANSFER_TO_AGENT): (
        State.TRANSFERRING_TO_AGENT,
        (Do.RELEASE_AGENT, Do.RING_SECOND, Do.SAY_TRANSFERRING),
    ),
    (State.TALKING, Heard.TRANSFER_NOT_POSSIBLE): (State.TALKING, (Do.SAY_NOT_POSSIBLE,)),
    **{
        (State.TRANSFERRING_TO_AGENT, failed): (TO_DESK[0], (Do.CANCEL_SECOND, Do.PAUSE_SECOND, *TO_DESK[1]))
        for failed in NOT_TAKEN
    },
    (State.TRANSFERRING_TO_AGENT, Heard.OFFER_LOST): (
        TO_DESK[0],
        (Do.CANCEL_SECOND, Do.FREE_SECOND, *TO_DESK[1]),
    ),
    **{
        row: to
        for state in (State.TRANSFERRING, State.TRANSFERRING_TO_AGENT)
        for row, to in {
            (state, Heard.PROMPT_ENDED): (state, (Do.PLAY_MUSIC,)),
            (state, Heard.WHISPER_ENDED): (
                State.TALKING,
                (Do.LEAVE_SECOND_QUEUE, Do.HAND_OVER, Do.JOIN_AGENT, Do.SAY_AGENT_OPENING),
            ),
        }.items()
    },
    (State.TRANSFERRING, Heard.SECOND_LATE): (
        State.CLOSING,
        (*NO_SECOND, Do.OPEN_SECOND_ORDER, Do.SAY_SECOND_LATE, Do.SAY_CLOSING, Do.LISTEN),
    ),
    # 11. The agent leaves, and the caller who was served is asked how it was: once, and once more if the key was wrong.
    #     Who gives one or two is asked why, and says so: # or a pause ends it. KPI-7
    (State.TALKING, Heard.CLOSING_ASKED): TALK_OVER,
    (State.TALKING, Heard.AGENT_LEFT): TALK_OVER,
    **{(State.RATING, rated): TO_CLOSING for rated in RATED},
    **dict.fromkeys(LOW, (State.RATING_REASON, (Do.ASK_REASON, Do.LISTEN))),
    **{(State.RATING, none): TO_CLOSING for none in (Heard.RATING_NOT_ASKED, Heard.NO_ENTRY, Heard.ENTRY_GIVEN_UP)},
    (State.RATING_REASON, Heard.PROMPT_ENDED): (State.RATING_REASON, (Do.HEAR_REASON,)),
    (State.RATING_REASON, Heard.REASON_GIVEN): (
        State.CLOSING,
        (Do.END_REASON, Do.SAY_REASON_NOTED, Do.SAY_CLOSING, Do.LISTEN),
    ),
    (State.RATING_REASON, Heard.NO_ENTRY): (State.CLOSING, (Do.END_REASON, Do.SAY_CLOSING, Do.LISTEN)),
    (State.RATING_REASON, Heard.WANTS_A_PERSON): (TO_DESK[0], (Do.END_REASON, *TO_DESK[1])),
    # 11b. The closing question, then five seconds for the caller to hang up first. SOP-6
    (State.CLOSING, Heard.PROMPT_ENDED): (State.LEAVING, (Do.GIVE_FIVE_SECONDS,)),
    (State.LEAVING, Heard.FIVE_SECONDS_PASSED): (State.ENDED, (Do.HANG_UP,)),
    # 11a. A call that we place, a callback or one in a case: the agent's phone first, then the person's, and the agent
    #      hears it ring. Then it is a talk like any other; who is not reached is told to the agent
    (State.RINGING, Heard.CALL_PLACED): (State.CALLING_AGENT, (Do.RING_AGENT,)),
    **{
        (State.CALLING_AGENT, failed): (State.ENDED, (Do.CANCEL_OFFER, Do.PAUSE_AGENT))
        for failed in (
            Heard.AGENT_REFUSED,
            Heard.AGENT_BUSY,
            Heard.AGENT_NO_ANSWER,
            Heard.AGENT_UNREACHABLE,
            Heard.AGENT_LEFT,
        )
    },
    (State.CALLING_AGENT, Heard.OFFER_LOST): NOT_PLACED,
    (State.CALLING_AGENT, Heard.AGENT_ANSWERED): (State.BRIEFING, (Do.WHISPER,)),
    (State.BRIEFING, Heard.AGENT_LEFT): (State.ENDED, (Do.CANCEL_OFFER, Do.PAUSE_AGENT)),
    (State.BRIEFING, Heard.WHISPER_ENDED): (State.CALLING_OUT, (Do.CALL_OUT,)),
    (State.CALLING_OUT, Heard.OUTSIDE_ANSWERED): (
        State.TALKING,
        (Do.MEET, Do.SAY_RECORDING_NOTICE, Do.SAY_AGENT_OPENING),
    ),
    **{
        (State.CALLING_OUT, why): (State.NOT_REACHED, (Do.TELL_NOT_REACHED,))
        for why in (
            Heard.OUTSIDE_BUSY,
            Heard.OUTSIDE_NO_ANSWER,
            Heard.OUTSIDE_REFUSED,
            Heard.OUTSIDE_UNREACHABLE,
        )
    },
    (State.CALLING_OUT, Heard.AGENT_LEFT): (State.ENDED, (Do.GIVE_UP_CALLING, Do.CANCEL_OFFER, Do.FREE_AGENT)),
    (State.NOT_REACHED, Heard.WHISPER_ENDED): NOT_PLACED,
    (State.NOT_REACHED, Heard.AGENT_LEFT): NOT_PLACED,
    # 12. At any time: 0 is a person
    **{(state, Heard.WANTS_A_PERSON): TO_DESK for state in (State.GREETING, *ASKING, State.CLOSING, State.LEAVING)},
    # 13. At any time: the ceiling on the whole call, warned one minute before
    **{(state, Heard.CEILING_NEAR): (state, (Do.SAY_CEILING_NEAR,)) for state in (*QUEUED, *SERVED, *SEEKING)},
    **{(state, Heard.PROMPT_ENDED): (state, (Do.ARRANGE,)) for state in (State.CONSULT_RINGING, State.CONSULTING)},
    **{
        (state, Heard.CEILING_REACHED): (State.OVERTIME, (Do.SAY_CLOSING,))
        for state in ANYWHERE
        if state not in UNTIMED
    },
    (State.WAITING, Heard.CEILING_REACHED): (State.OVERTIME, (Do.LEAVE_QUEUE, Do.SAY_CLOSING)),
    (State.OFFERING, Heard.CEILING_REACHED): (
        State.OVERTIME,
        (Do.CANCEL_OFFER, Do.FREE_AGENT, Do.LEAVE_QUEUE, Do.SAY_CLOSING),
    ),
    (State.WHISPERING, Heard.CEILING_REACHED): (
        State.OVERTIME,
        (Do.CANCEL_OFFER, Do.FREE_AGENT, Do.LEAVE_QUEUE, Do.SAY_CLOSING),
    ),
    (State.TALKING, Heard.CEILING_REACHED): (State.OVERTIME, (Do.RELEASE_AGENT, Do.SAY_CLOSING)),
    **{
        (state, Heard.CEILING_REACHED): (State.OVERTIME, (*LET_GO[state], Do.SAY_CLOSING))
        for state in (*SEEKING, *CONSULTED)
    },
    (State.OVERTIME, Heard.PROMPT_ENDED): (State.OVERTIME, (Do.GIVE_FIVE_SECONDS,)),
    (State.OVERTIME, Heard.FIVE_SECONDS_PASSED): (State.ENDED, (Do.HANG_UP,)),
    # 14. At any time: the caller hangs up, or the line is lost (Asterisk died; the caller is called back)
    **{(state, gone): to for gone in (Heard.HUNG_UP, Heard.LINE_LOST) for state, to in GONE.items()},
    # 14a. Outside hours nobody is there, and 0 says so; whoever is proven hears of the case at any hour
    (State.ADMITTING, Heard.CLOSED_NOW): (State.AFTER_HOURS, (Do.SAY_CLOSED, Do.ASK)),
    (State.AFTER_HOURS, Heard.WANTS_CASE_STATUS): (State.SELF_SERVICE, (Do.LOOK_UP_CASES,)),
    (State.AFTER_HOURS, Heard.IDENTITY_WANTED): (State.ASKING_ROLE, (Do.SAY_IDENTITY_FIRST, Do.ASK)),
    (State.AFTER_HOURS, Heard.IDENTITY_REFUSED): (State.AFTER_HOURS, (Do.SAY_NO_STATUS, Do.ASK)),
    (State.FETCHING_CONTEXT, Heard.PROVEN_OUTSIDE_HOURS): (State.SELF_SERVICE, (Do.LOOK_UP_CASES,)),
    **{
        (state, Heard.UNPROVEN_OUTSIDE_HOURS): (State.AFTER_HOURS, (Do.SAY_NO_STATUS, Do.ASK))
        for state in (*IDENTIFYING, State.CHECKING)
    },
    (State.SELF_SERVICE, Heard.CASES_FOUND): (State.SELF_SERVICE, (Do.SAY_CASES, Do.ASK)),
    (State.SELF_SERVICE, Heard.CASES_UNAVAILABLE): (State.AFTER_HOURS, (Do.SAY_CASES_UNAVAILABLE, Do.ASK)),
    (State.SELF_SERVICE, Heard.HEAR_AGAIN): (State.SELF_SERVICE, (Do.LOOK_UP_CASES,)),
    (State.SELF_SERVICE, Heard.GO_BACK): (State.AFTER_HOURS, (Do.ASK,)),
    **{
        (state, Heard.ENTRY_GIVEN_UP): (State.CLOSING, (Do.SAY_CLOSING, Do.LISTEN))
        for state in (State.AFTER_HOURS, State.SELF_SERVICE)
    },
    # 14b. A message: after the tone, until # or silence; somebody must answer it. Hanging up ends it as well. CRM-7
    (State.AFTER_HOURS, Heard.WANTS_TO_LEAVE_MESSAGE): (State.LEAVING_MESSAGE, (Do.SAY_LEAVE_MESSAGE,)),
    (State.LEAVING_MESSAGE, Heard.PROMPT_ENDED): (State.LEAVING_MESSAGE, (Do.RECORD_MESSAGE,)),
    (State.LEAVING_MESSAGE, Heard.MESSAGE_LEFT): (
        State.CLOSING,
        (Do.TAKE_MESSAGE, Do.SAY_MESSAGE_NOTED, Do.SAY_CLOSING, Do.LISTEN),
    ),
    (State.LEAVING_MESSAGE, Heard.MESSAGE_EMPTY): (State.LEAVING_MESSAGE, (Do.SAY_MESSAGE_EMPTY,)),
    (State.LEAVING_MESSAGE, Heard.ENTRY_GIVEN_UP): (State.AFTER_HOURS, (Do.SAY_MESSAGE_GIVEN_UP, Do.ASK)),
    (State.LEAVING_MESSAGE, Heard.MESSAGE_FAILED): (State.AFTER_HOURS, (Do.SAY_MESSAGE_FAILED, Do.ASK)),
    (State.LEAVING_MESSAGE, Heard.CEILING_REACHED): (State.OVERTIME, (Do.TAKE_MESSAGE, Do.SAY_CLOSING)),
    **{(State.LEAVING_MESSAGE, gone): (State.ENDED, (Do.TAKE_MESSAGE,)) for gone in (Heard.HUNG_UP, Heard.LINE_LOST)},
    # 15. The controller was away for a moment. Whoever was being spoken to, or was keying, hears an apology and the
    #     same question; whoever waits keeps place and music; whoever talks hears nothing. Deadlines run on.
    (State.GREETING, Heard.RESUMED): (
        State.GREETING,
        (Do.ANSWER, Do.SAY_INTERRUPTED, Do.SAY_RECORDING_NOTICE, Do.SAY_OPENING, Do.LISTEN),
    ),
    **{(state, Heard.RESUMED): (state, (Do.SAY_INTERRUPTED, Do.ASK)) for state in ASKING},
    **{
        (state, Heard.RESUMED): (state, (Do.SAY_INTERRUPTED, Do.OFFER_OWN_NUMBER))
        for state in (State.LAWYER_NUMBER, State.PARTY_NUMBER)
    },
    (State.CHECKING, Heard.RESUMED): (State.CHECKING, (Do.CHECK_IDENTITY,)),
    (State.FETCHING_CONTEXT, Heard.RESUMED): (State.FETCHING_CONTEXT, (Do.FETCH_CONTEXT,)),
    (State.ADMITTING, Heard.RESUMED): (State.ADMITTING, (Do.ADMIT,)),
    (State.WAITING, Heard.RESUMED): (State.WAITING, (Do.REJOIN_QUEUE, Do.PLAY_MUSIC)),
    (State.OFFERING, Heard.RESUMED): (State.OFFERING, (Do.REJOIN_QUEUE, Do.PLAY_MUSIC)),
    (State.WHISPERING, Heard.RESUMED): (State.WHISPERING, (Do.REJOIN_QUEUE, Do.PLAY_MUSIC, Do.WHISPER)),
    (State.TALKING, Heard.JOIN_CUT): (State.TALKING, (Do.JOIN_AGENT, Do.SAY_AGENT_OPENING)),
    **{(state, Heard.RESUMED): (state, (Do.ARRANGE,)) for state in (State.TALKING, *CONSULTED)},
    (State.CONSULT_RINGING, Heard.RESUMED): (State.CONSULT_RINGING, (Do.ARRANGE, Do.SEEK_SECOND)),
    (State.TRANSFERRING, Heard.RESUMED): (State.TRANSFERRING, (Do.PLAY_MUSIC, Do.SEEK_SECOND)),
    (State.TRANSFERRING_TO_AGENT, Heard.RESUMED): (State.TRANSFERRING_TO_AGENT, (Do.PLAY_MUSIC,)),
    (State.LEAVING_MESSAGE, Heard.RESUMED): (State.LEAVING_MESSAGE, (Do.SAY_INTERRUPTED, Do.SAY_LEAVE_MESSAGE)),
    (State.BRIEFING, Heard.RESUMED): (State.BRIEFING, (Do.WHISPER,)),
    (State.CALLING_OUT, Heard.RESUMED): (State.CALLING_OUT, (Do.CALL_OUT,)),
    (State.NOT_REACHED, Heard.RESUMED): (State.NOT_REACHED, (Do.TELL_NOT_REACHED,)),
    (State.RATING, Heard.RESUMED): (State.RATING, (Do.SAY_INTERRUPTED, Do.OFFER_RATING)),
    (State.RATING_REASON, Heard.RESUMED): (State.RATING_REASON, (Do.SAY_INTERRUPTED, Do.ASK_REASON, Do.LISTEN)),
    (State.CLOSING, Heard.RESUMED): (State.CLOSING, (Do.SAY_CLOSING, Do.LISTEN)),
    (State.OVERTIME, Heard.RESUMED): (State.OVERTIME, (Do.SAY_CLOSING,)),
}


@dataclass(frozen=True)
class Progress:
    """How far a call has come: all that ``step()`` needs to know of it."""

    state: State = State.RINGING
    role: Role = Role.UNKNOWN
    verified: bool = False
    need: Need | None = None
    tries: int = 0
    """Failures at the present question."""
    rounds: int = 0
    """Identity checks that failed."""
    closed: bool = False
    """Nobody was there when an agent was last asked for."""
    line: str | None = None
    """The line that an agent transferred the call to."""


def step(call: Progress, heard: Heard) -> tuple[Progress, tuple[Do, ...]]:
    """What becomes of `call` once `heard` is heard, and what to do, in order. Total: every pair has an answer."""
    failed = heard in (Heard.ENTRY_INVALID, Heard.NO_ENTRY) and call.state in ASKING
    failed |= heard is Heard.MESSAGE_EMPTY and call.state is State.LEAVING_MESSAGE
    failed |= heard is Heard.ENTRY_CLEARED and call.state is State.RATING
    unanswered = heard is Heard.NO_ENTRY and call.state is State.RATING
    if failed and not unanswered and call.tries + 1 >= (TRIES if call.state is not State.RATING else RATING_TRIES):
        heard = Heard.ENTRY_GIVEN_UP
    unproven = heard is Heard.IDENTITY_NOT_PROVEN and call.state is State.CHECKING
    if unproven and call.rounds + 1 >= TRIES:
        heard = Heard.IDENTITY_GIVEN_UP
    if call.state is State.AFTER_HOURS and heard is Heard.WANTS_CASE_STATUS and not call.verified:
        heard = Heard.IDENTITY_WANTED if call.rounds < TRIES else Heard.IDENTITY_REFUSED
    if call.closed:
        heard = OUTSIDE_HOURS.get((call.state, heard), heard)
    row = SOP.get((call.state, heard))
    if row is None:
        return call, ()
    state, actions = row
    return (
        replace(
            call,
            state=state,
            role=ROLES.get(heard, call.role),
            verified=call.verified or heard is Heard.IDENTITY_PROVEN,
            need=NEEDS.get(heard, call.need),
            tries=0 if state is not call.state else call.tries + failed,
            rounds=call.rounds + unproven,
            closed=heard is Heard.CLOSED_NOW or (call.closed and state is not State.ADMITTING),
            line=TRANSFERRED_TO.get(heard, call.line),
        ),
        actions,
    )


OUTSIDE_HOURS: dict[tuple[State, Heard], Heard] = {
    (State.FETCHING_CONTEXT, Heard.CONTEXT_CAME): Heard.PROVEN_OUTSIDE_HOURS,
    (State.FETCHING_CONTEXT, Heard.CONTEXT_FAILED): Heard.PROVEN_OUTSIDE_HOURS,
    (State.CHECKING, Heard.IDENTITY_GIVEN_UP): Heard.UNPROVEN_OUTSIDE_HOURS,
    (State.CHECKING, Heard.IDENTITY_UNAVAILABLE): Heard.UNPROVEN_OUTSIDE_HOURS,
    **{(state, Heard.ENTRY_GIVEN_UP): Heard.UNPROVEN_OUTSIDE_HOURS for state in IDENTIFYING},
}
"""What identity comes to once nobody is there: the case itself, or the menu again, without asking for the need."""
TRANSFERRED_TO = {Heard.TRANSFER_TO_PARTY_LINE: "party", Heard.TRANSFER_TO_LAWYER_LINE: "lawyer"}
ROLES = {Heard.SAID_LAWYER: Role.LAWYER, Heard.SAID_PARTY: Role.PARTY}
