"""The manual for the people who answer the phones (docs/sop.zh.md), written from the table. Pure."""

from __future__ import annotations

from ari_app.flow.identity import Element
from ari_app.flow.sop import ELEMENTS, ENTRIES, MENUS, QUESTIONS, SOP, TRIES, Heard, State

ELEMENTS_ZH = {
    Element.FIRM: "律师事务所名称的拼音首字母",
    Element.NAME: "姓名的拼音首字母",
    Element.LICENCE: "执业证号后四位",
    Element.MOBILE: "登记的手机号",
    Element.CASE: "案号后五位",
}

HEAD = """\
# 三铃热线流程手册

> 本文件由 `ari_app/flow/sop.py` 的流程表生成（`sanling sop --write`），请勿手改；`make check` 会核对是否最新。

来电人说的每一步、座席按的每一个键，都在下面的表里。表里没有的组合不改变任何事。
任何一问连续 {tries} 次没有输入或输入有误，系统不再追问；核身最多 {tries} 轮。
核身未通过时，系统**从不**告诉来电人哪一项不符，也不透露案件内容；哪几项未核实只显示在座席一侧。

## 座席要点

| 什么时候 | 做什么 |
|---|---|
| 上班 | 话机注册后拨 `*11`，输入密码，按 `#`（也可直接拨 `*11` 加密码） |
| 坐在别人的话机 | 拨 `*11*`，输入自己的工号和密码（或 `*11工号*密码`）；来电随人走，原来在此签入的同事自动签出 |
| 话机响铃 | 三声之内接听；拒接、忙线、三声未接都会暂停接听，拨 `*14` 恢复 |
| 接起后 | 先听到一句耳语（身份、是否核身、来意），随后与来电人接通 |
| 谈到胜诉概率、判决时间、赔偿金额 | 按 `*5`，双方听到风险提示 |
| 要请教二线律师 | 按 `*1`（来电人听音乐）；`*2` 切换，`*3` 三方，`*4` 交给律师，`*0` 回到来电人；挂机等于交给对方 |
| 要转走 | 按 `*7`、线路（1 当事人、2 律师、3 二线）或工号、`#`，如 `*7602#` |
| 谈完 | 按 `*6` 或挂机，系统请来电人打分，再播放结束语，五秒后挂机 |
| 按 `*6` 前 | 先在电话里问清还有没有别的事：按下后您即离开通话，来电人要再说话只能按 `0` |
| 话后登记 | 在话后处理时间内拨 `*17`、需求（1 节点、2 材料、3 时间、4 情绪）、结果（1 当场答复、2 派单），如 `*1711`；\
来不及先拨 `*16`；可重做，以最后一次为准 |
| 给当事人 / 律师回电 | 话后拨 `*91` / `*92`，挂机，话机响铃后接起；对方接听后先核对身份。\
上一通请先拨 `*17` 登记，回电接通后就不能再登记 |
| 话机显示“二次来电” | 七天内为同一案件、同一需求再次来电：上次没有解决，请先问清 |
| 话后处理做完 / 来不及 | 拨 `*15` 提前结束 / `*16` 延长 |
| 离开座位 / 回来 | 拨 `*13` 加原因代码暂停 / `*14` 恢复：\
`*131` 小休，`*132` 用餐，`*133` 培训，`*134` 文书（以 `desk.toml` 为准）；有时限的，会听到今天还剩多少时间 |
| 下班 | 拨 `*12` 签出 |
| 密码连续三次不对 | 账号锁定五分钟，之后再试；忘了密码找班长，由班长请运维处理 |

## 班长、带教要点

须先签入（`*11`），之后不再输密码。带班时不想接来电的，签入后拨 `*13`，仍可使用下列代码。
角色决定能做什么：质检（`inspector`）只能监听，带教（`mentor`）可以监听、指导、三方、接管，班长（`leader`）全部可以。
角色由运维设定，如 `sanling agents role 612 leader`，下一次拨码即生效。来电人和座席都听不到您加入或退出。

| 要做什么 | 怎么做 |
|---|---|
| 监听 | 拨 `*81工号`，如 `*81601`：您能听到双方，双方都听不到您 |
| 指导 | 拨 `*82工号`：只有座席听到 |
| 三方 | 拨 `*83工号`：双方都听到您 |
| 接管 | 拨 `*84工号`：座席退出，转话后处理；由您与来电人通话，按键与座席相同。座席正在请教二线时不能接管 |
| 监听中切换 | 按 `1` 监听、`2` 指导、`3` 三方、`4` 接管；挂机即结束 |
| 强制暂停 / 强制签出 | 拨 `*85工号` / `*86工号`；座席正在振铃或通话时不能用，等通话结束，或先接管 |
| 接走等得最久的来电人 | 拨 `*87`，听到提示后挂机，话机响铃后接起 |
| 把座席调到另一条线路 | 拨 `*88工号*1` 当事人、`*88工号*2` 律师、`*88工号*3` 二线，如 `*88601*2`；\
此后该座席只接这条线路 |
| 接管或接走的通话结束后 | 先是话后处理，随后转为空闲，原先的暂停不再有效；仍不想接来电，再拨 `*13` |

"""


def manual() -> str:
    """Markdown, in Chinese."""
    return "\n".join([HEAD.format(tries=TRIES), *_questions(), *_table(), *_diagram()])


def _questions() -> list[str]:
    lines = ["## 提问与按键", "", "| 状态 | 按键 |", "|---|---|"]
    for state in State:
        if state in ENTRIES:
            entry = ENTRIES[state]
            length = (
                f"{entry.shortest} 位" if entry.shortest == entry.longest else f"{entry.shortest}–{entry.longest} 位"
            )
            what = ELEMENTS_ZH[ELEMENTS[state]] if state in ELEMENTS else "回电号码，座机带区号"
            keys = f"{what}（{length}），`#` 结束，`*` 重来，`0` 转人工"
        elif state in MENUS:
            person = ("`0` 转人工",) if (state, Heard.WANTS_A_PERSON) in SOP else ()
            keys = "，".join([*(f"`{key}` {heard.value}" for key, heard in MENUS[state].items()), *person])
        else:
            continue
        lines.append(f"| {state.value} | {keys} |")
    return [*lines, ""]


def _table() -> list[str]:
    lines = ["## 流程表", "", "| 状态 | 听到 | 系统做 | 转到 |", "|---|---|---|---|"]
    for state in State:
        for (row_state, heard), (to, actions) in SOP.items():
            if row_state is state:
                done = "、".join(do.value for do in actions) or "—"
                goes = "（不变）" if to is state else to.value
                lines.append(f"| {state.value} | {heard.value} | {done} | {goes} |")
    return [*lines, ""]


def _diagram() -> list[str]:
    """The main paths; hang-ups, ceilings and repeated questions are in the table only."""
    elsewhere = {Heard.HUNG_UP, Heard.CEILING_REACHED, Heard.CEILING_NEAR}
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, heard), (to, _) in SOP.items():
        if to is not state and heard not in elsewhere:
            edges.setdefault((state, to), []).append(heard.value)
    asked = [state.name for state in QUESTIONS]
    lines = ["## 流程图", "", "```mermaid", "stateDiagram-v2", "    [*] --> RINGING"]
    lines += [f'    state "{state.value}" as {state.name}' for state in State]
    lines += [f"    {a.name} --> {b.name}: {' / '.join(words)}" for (a, b), words in edges.items()]
    lines += [
        "    ENDED --> [*]",
        "    classDef question fill:#eef",
        f"    class {','.join(asked)} question",
        "```",
        "",
    ]
    return lines
